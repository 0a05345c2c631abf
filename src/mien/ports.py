"""Ports and names of this machine."""

import ipaddress
import socket
from urllib.parse import urlsplit

from mien.errors import MienError


def require_free(host: str, port: int, advice: str) -> None:
    """Find out before anything starts that it could not listen there.

    Raises:
        MienError: the port is taken, not ours to take, or no port; it ends with ``advice``.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers take it
        try:
            probe.bind((host, port))
        except (OSError, OverflowError) as error:
            told = str(error).rstrip(".")
            raise MienError(f"port {port} at {host}: {told}; {advice}") from None


def names_this_machine(host: str) -> bool:
    """Whether a ``Host`` header, with or without a port, is a name that only this machine has.

    A page elsewhere whose own name leads here (DNS rebinding) sends that name.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or name.endswith(".localhost") or is_loopback(name)


def is_loopback(address: str) -> bool:
    """Whether this is an IP address under which only this machine is reached."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False

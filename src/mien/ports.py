"""Ports and names of this machine, and the sites of pages that ask it."""

import ipaddress
import socket
from collections.abc import Collection
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


def site_of(address: str) -> str:
    """Host and port; empty where there are none, as in the ``null`` of a page without a site."""
    try:
        return urlsplit(address.strip()).netloc
    except ValueError:
        return ""


def is_page_of(origin: str, sites: Collection[str]) -> bool:
    """Whether the page that an ``Origin`` header names is of one of these sites.

    A browser names it with each request that may change something or is a websocket.
    """
    site = site_of(origin)
    return site != "" and site in sites


def is_loopback(address: str) -> bool:
    """Whether this is an IP address under which only this machine is reached."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False

"""Ports of this machine."""

import socket

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

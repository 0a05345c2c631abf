"""Ports that nothing could listen on are told before anything starts."""

import socket

import pytest

from mien.errors import MienError
from mien.ports import require_free


def test_a_free_port_says_nothing():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    require_free("127.0.0.1", port, "another one")


def test_a_port_that_is_taken_or_none_is_told():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MienError, match=f"port {port} at 127.0.0.1: .*in use; another one"):
            require_free("127.0.0.1", port, "another one")
    with pytest.raises(MienError, match=r"port 65536 .*0-65535; another one"):
        require_free("127.0.0.1", 65536, "another one")  # the reports' port beside 65535

"""Which ports of this machine can be used."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from serve_app.errors import PortInUseError, SettingsError, StartError
from serve_app.operations import ports
from serve_app.operations.ports import check_port, free_ports


def test_an_address_that_cannot_be_bound_is_refused() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken, pytest.raises(PortInUseError, match="already in use"):
        check_port("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(SettingsError, match=r"cannot listen on 192\.0\.2\.1:1313"):
        check_port("192.0.2.1", 1313)
    for host in ("::", "::1"):
        with pytest.raises(SettingsError, match="IPv6 addresses are not supported"):
            check_port(host, 1313)


def test_a_block_with_one_port_in_use_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))  # noqa: S104 - a test
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(ports, "_BLOCKS", range(port - 3, port + 7, 10))
        with pytest.raises(StartError, match="no 10 consecutive ports"):
            free_ports()

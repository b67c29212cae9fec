"""Where HAProxy's admin socket is; what is said on it is tests/integration/test_stopping.py's subject."""

from __future__ import annotations

import socket
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

from serve_app.operations.haproxy_admin import admin_sockets


def test_a_process_that_only_prints_its_version_has_no_admin_socket(tmp_path: Path) -> None:
    config, admin = tmp_path / "haproxy.cfg", tmp_path / "admin.sock"
    config.write_text(f"global\n  stats socket {admin} mode 666 level admin\n")
    commands = (["haproxy", "-v"], ["haproxy", "-db", "-f", str(config)], ["haproxy", "-f", str(config)])
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(str(admin))
        assert admin_sockets(Mock(cmdline=Mock(return_value=command)) for command in commands) == {str(admin)}

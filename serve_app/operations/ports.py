"""Ports of this machine: whether the service's own is free, and a block of free ones for replicas and HAProxy."""

from __future__ import annotations

import errno
import secrets
import socket

from serve_app.errors import PortInUseError, SettingsError, StartError

__all__ = ["check_port", "free_ports"]

_BLOCKS = range(20_000, 32_000, 200)  # above the ports that Ray gives to workers, below Linux's ephemeral ports


def check_port(host: str, port: int) -> None:
    """Checks that the service can listen on a port.

    Raises:
        PortInUseError: another process listens there.
        SettingsError: the address is not one of this machine's IPv4 addresses, or the port needs privileges.
    """
    if ":" in host:
        raise SettingsError(f"cannot listen on {host}: IPv6 addresses are not supported; use an IPv4 address")
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            listener.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUseError(host, port) from error
            raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror}") from error


def free_ports() -> range:
    """A block of free ports, chosen at random so that services that start at the same time get different ones.

    Raises:
        StartError: no block is free.
    """
    starts = list(_BLOCKS)
    secrets.SystemRandom().shuffle(starts)
    for start in starts:
        block = range(start, start + _BLOCKS.step)
        if all(map(_is_free, block)):
            return block
    raise StartError(f"no {_BLOCKS.step} consecutive ports are free")


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind(("", port))
        except OSError:
            return False
        return True

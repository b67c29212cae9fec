#!/usr/bin/env -S python3 -IS
"""The program that Ray Serve starts as HAProxy: it is HAProxy's parent, and restarts it at once if it dies.

Owns one HAProxy process and what only its parent can do. It completes the configuration (haproxy_config.py), passes signals
on, and behaves to Ray Serve as HAProxy itself: Ray Serve asks the admin socket for HAProxy's process ID, and compares it with
the process that it has started. So this program owns the admin socket, passes commands on to HAProxy's own, and replaces the
process ID in the answer. HAProxy dies with its parent.

A reload starts this program again: the new HAProxy takes over the listening sockets (-x) and tells the old one to finish (-sf).
If Ray Serve's proxy actor died and a new one knows nothing of the old HAProxy, the new HAProxy takes over from it as well.

Knows the standard library only, because it runs at each reload and has to start quickly.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FrameType

if not __package__:  # a program of its own, without the user's import path
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from serve_app.operations.haproxy_config import CERTIFICATE, KEY, FrontError, admin_socket, harden

__all__ = ["BINARY"]

BINARY = "SERVE_APP_HAPROXY_BINARY"
"""The variable that names HAProxy's own program."""

_FORWARDED = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU)
_ENDING = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT)  # the soft stop, and the hard ones
_START_TIMEOUT_S = 30
_SHORT_LIFE_S = 1.0
_MOST_SHORT_LIVES = 5  # then something is wrong that a restart does not mend
_POLL_INTERVAL_S = 0.005
_SOCKET_TIMEOUT_S = 10
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
_PROCESS_ID = re.compile(rb"^Pid: \d+$", re.MULTILINE)


class Front:
    """One HAProxy, and the files that are its own: they are named after this process, for a reload runs two at the same time.

    Args:
        binary: HAProxy's own program.
        arguments: as Ray Serve gives them.
        environment: the limits, and the certificate.
    """

    def __init__(self, binary: str, arguments: list[str], environment: Mapping[str, str]) -> None:
        self._binary = binary
        self._arguments = arguments
        self._environment = environment
        self._written = Path(arguments[arguments.index("-f") + 1])  # by Ray Serve, anew before each reload
        config = self._written.read_text(encoding="utf-8")
        self._admin = admin_socket(config)
        # Next to the folder of the admin socket, whose path is nearly as long as that of a socket can be.
        self._sockets = self._admin.parent.parent
        self._own_admin = self._socket_of(os.getpid())
        self._own_config = self._written.with_suffix(f".{os.getpid()}.cfg")
        self._own_certificate = self._written.with_suffix(f".{os.getpid()}.crt")
        self._haproxy: subprocess.Popen[bytes] | None = None
        self._is_ending = False
        with _private():
            certificate = self._link_certificate()
            self._own_config.write_text(harden(config, environment, certificate, self._own_admin), encoding="utf-8")

    def run(self) -> int:
        """Keeps HAProxy running until it ends by itself or by a signal; returns the exit code."""
        for number in _FORWARDED:
            signal.signal(number, self._forward)
        try:
            self._start(self._with_displaced())
            if self._wait_until_up():
                threading.Thread(target=self._serve_admin, args=(self._listen(),), daemon=True).start()
                self._restart_until_told_to_end()
            return self._exit_code()
        finally:
            for path in (self._own_config, self._own_admin, self._own_certificate, _key_of(self._own_certificate)):
                path.unlink(missing_ok=True)

    def check(self) -> int:
        """Has HAProxy check the configuration, and returns its exit code."""
        try:
            self._start(self._arguments)
            return self._exit_code()
        finally:
            self._own_config.unlink(missing_ok=True)

    def _restart_until_told_to_end(self) -> None:
        lives: list[float] = []
        while True:
            started = time.monotonic()
            code = self._exit_code()
            if self._is_ending or code == 0:
                return
            lives = [*lives, time.monotonic() - started][-_MOST_SHORT_LIVES:]
            if len(lives) == _MOST_SHORT_LIVES and max(lives) < _SHORT_LIFE_S:
                return
            print(f"HAProxy died ({code}) and is started again", file=sys.stderr, flush=True)  # noqa: T201 - Ray keeps it
            self._own_admin.unlink(missing_ok=True)
            self._start(_without(self._arguments, "-sf", "-x"))
            if not self._wait_until_up():
                return

    def _start(self, arguments: list[str]) -> None:
        arguments = [str(self._own_config) if word == str(self._written) else word for word in arguments]
        libc, parent = ctypes.CDLL(None), os.getpid()

        def end_with_parent() -> None:
            libc.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

        self._haproxy = subprocess.Popen([self._binary, *arguments], preexec_fn=end_with_parent)  # noqa: S603, PLW1509
        if self._is_ending:  # the signal came before there was a process to pass it on to
            self._haproxy.send_signal(signal.SIGUSR1)

    def _wait_until_up(self) -> bool:
        """Whether HAProxy has opened its admin socket, which it does after its ports; False if it has ended instead."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._own_admin.is_socket():
                return True
            time.sleep(_POLL_INTERVAL_S)
        self._process.kill()
        return False

    def _exit_code(self) -> int:
        code = self._process.wait()
        return code if code >= 0 else 128 - code

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        assert self._haproxy is not None  # noqa: S101 - _start comes first
        return self._haproxy

    def _forward(self, number: int, _frame: FrameType | None) -> None:
        self._is_ending = self._is_ending or number in _ENDING
        if self._haproxy is not None:
            self._haproxy.send_signal(number)

    def _with_displaced(self) -> list[str]:
        """The arguments, so that HAProxy takes over from those that run already.

        Ray Serve names them by ``-sf``, and by ``-x`` the socket to get the listening sockets from; here each has its own.
        """
        named = [int(word) for word in _values(self._arguments, "-sf")]
        displaced = [pid for pid in named or self._found() if self._is_front(pid)]
        arguments = _without(self._arguments, "-sf", "-x")
        sources = [self._socket_of(pid) for pid in displaced if self._socket_of(pid).is_socket()]
        if sources:
            arguments += ["-x", str(sources[0])]
        return [*arguments, "-sf", *map(str, displaced)] if displaced else arguments

    def _found(self) -> list[int]:
        """The processes of this program that have a socket here; sockets of those that were killed are removed."""
        found = []
        for path in self._sockets.glob("*.sock"):
            if path.stem.isdigit() and self._is_front(int(path.stem)):
                found.append(int(path.stem))
            elif path.stem.isdigit():
                path.unlink(missing_ok=True)
        return found

    def _is_front(self, pid: int) -> bool:
        """Whether a process is of this program and for this configuration; the number may be that of another one by now."""
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return pid != os.getpid() and os.fsencode(self._written) in words

    def _socket_of(self, pid: int) -> Path:
        return self._sockets / f"{pid}.sock"

    def _link_certificate(self) -> Path | None:
        """The certificate under a name at which HAProxy finds its key, too, without a copy of the key; None without TLS."""
        certificate, key = self._environment.get(CERTIFICATE), self._environment.get(KEY)
        if not certificate and not key:
            return None
        if not certificate or not key:
            raise FrontError(f"{CERTIFICATE} and {KEY} go together")
        for target, link in ((certificate, self._own_certificate), (key, _key_of(self._own_certificate))):
            Path(target).open("rb").close()  # otherwise HAProxy would say only that there is no key
            link.unlink(missing_ok=True)
            link.symlink_to(Path(target).resolve())
        return self._own_certificate

    def _listen(self) -> socket.socket:
        """Replaces the admin socket of Ray Serve's configuration by one of this process."""
        scratch = self._admin.with_suffix(".new")
        scratch.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        with _private():
            listener.bind(str(scratch))
        scratch.chmod(0o600)
        listener.listen()
        scratch.replace(self._admin)
        return listener

    def _serve_admin(self, listener: socket.socket) -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=self._answer_admin, args=(client,), daemon=True).start()

    def _answer_admin(self, client: socket.socket) -> None:
        """Passes one command on and the answer back; Ray Serve uses a connection for one command."""
        with contextlib.suppress(OSError), client, socket.socket(socket.AF_UNIX) as haproxy:
            client.settimeout(_SOCKET_TIMEOUT_S)
            haproxy.settimeout(_SOCKET_TIMEOUT_S)
            haproxy.connect(str(self._own_admin))
            haproxy.sendall(client.makefile("rb").readline())
            answer = haproxy.makefile("rb").read()
            client.sendall(_PROCESS_ID.sub(b"Pid: %d" % os.getpid(), answer))


@contextlib.contextmanager
def _private() -> Iterator[None]:
    """Files that are made in the block are this user's alone."""
    mask = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(mask)


def _key_of(certificate: Path) -> Path:
    return certificate.with_name(f"{certificate.name}.key")


def _values(arguments: list[str], option: str) -> list[str]:
    """The words after an option, up to the next one."""
    if option not in arguments:
        return []
    after = arguments[arguments.index(option) + 1 :]
    end = next((index for index, word in enumerate(after) if word.startswith("-")), len(after))
    return after[:end]


def _without(arguments: list[str], *options: str) -> list[str]:
    for option in options:
        if option in arguments:
            start = arguments.index(option)
            arguments = arguments[:start] + arguments[start + 1 + len(_values(arguments, option)) :]
    return arguments


def _main(arguments: list[str], environment: Mapping[str, str]) -> int:
    binary = environment[BINARY]
    if "-f" not in arguments:  # Ray asks for the version
        os.execv(binary, [binary, *arguments])  # noqa: S606 - that is its purpose
    front = Front(binary, arguments, environment)
    return front.check() if "-c" in arguments else front.run()


if __name__ == "__main__":
    try:
        sys.exit(_main(sys.argv[1:], os.environ))
    except (FrontError, OSError, KeyError) as problem:
        sys.exit(f"HAProxy does not start: {type(problem).__name__}: {problem}")

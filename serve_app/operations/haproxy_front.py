#!/usr/bin/env -S python3 -IS
"""HAProxy, with what the configuration that Ray Serve writes for it lacks; Ray Serve starts it in HAProxy's place.

Owns the difference: the ports for statistics and metrics listen on loopback, the admin socket is this user's alone, headers
have to arrive in time, a client has a limited number of connections, there may be TLS, and where the replicas' own HTTP ports
stay on loopback, HAProxy's need not; and while there is no application yet the answer is 503. All of it is put into the file
that Ray Serve has just written, and then this process becomes HAProxy. A file of another shape than expected is an error:
HAProxy does not start, rather than start open.

A program of its own, which knows the standard library only: it runs at each reload and has to be quick. It is configured by
environment variables (config/serve.env), because Ray Serve gives it nothing else.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["BINARY", "CERTIFICATE", "CONNECTIONS", "HEADER_TIMEOUT", "HOST", "KEY", "FrontError", "harden"]

BINARY = "SERVE_APP_HAPROXY_BINARY"
HOST = "SERVE_APP_FRONT_HOST"
HEADER_TIMEOUT = "SERVE_APP_HEADER_TIMEOUT_S"
CONNECTIONS = "SERVE_APP_CONNECTIONS_PER_CLIENT"
CERTIFICATE = "SERVE_APP_TLS_CERTFILE"
KEY = "SERVE_APP_TLS_KEYFILE"

_SECTION = re.compile(r"(?:global|defaults|frontend|backend|listen)\b.*")
_MARK = "# hardened"
_ERROR = '{"error":{"code":"%s","message":"%s","request_id":"","rows":[],"bad_rows":0}}'
_ABSENT = (
    "return status 503 content-type application/json string "
    f"'{_ERROR % ('unavailable', 'the service has not started yet; try again')}' hdr retry-after 1"
)


class FrontError(Exception):
    """HAProxy cannot be started safely."""


def harden(config: str, environment: Mapping[str, str], certificate: Path | None) -> str:
    """Ray Serve's configuration of HAProxy, completed.

    Args:
        config: as Ray Serve has written it.
        environment: the limits.
        certificate: chain and key in one file, for TLS on the service's port.

    Raises:
        FrontError: the configuration is not of the shape that this was written for, or a limit is no number.
    """
    if config.startswith(_MARK):
        return config
    done: set[str] = set()
    lines = list(_completed(config.splitlines(), environment, certificate, done))
    missing = {"admin socket", "defaults", "metrics", "service", "stats", "no application"} - done
    if missing:
        raise FrontError(f"Ray Serve's configuration of HAProxy has no {', '.join(sorted(missing))} where it was expected")
    return "\n".join([_MARK, *lines, ""])


def _completed(lines: list[str], environment: Mapping[str, str], certificate: Path | None, done: set[str]) -> Iterator[str]:
    section = ""
    has_applications = any(line.split()[:1] == ["use_backend"] for line in lines)
    for line in lines:
        section = line.strip() if _SECTION.fullmatch(line) else section
        words = line.split()
        if section == "global" and words[:2] == ["stats", "socket"]:
            done.add("admin socket")
            yield line.replace(" mode 666 ", " mode 600 ")
        elif section == "defaults" and line.strip() == "mode http":
            done.add("defaults")
            yield line
            yield f"    timeout http-request {_number(environment, HEADER_TIMEOUT, 10)}s"
        elif section in {"frontend prometheus", "listen stats"} and words[:1] == ["bind"]:
            done.add("metrics" if section == "frontend prometheus" else "stats")
            yield f"    bind 127.0.0.1:{words[1].rpartition(':')[2]}"
        elif section == "frontend http_frontend" and words[:1] == ["bind"]:
            done.add("service")
            address, _, port = words[1].rpartition(":")
            tls = "" if certificate is None else f" ssl crt {certificate} alpn http/1.1 ssl-min-ver TLSv1.2"
            yield f"    bind {_host(environment) or address}:{port}{tls}"
            # HAProxy 2.8 takes 2**64 for 0, and what follows for the next request; the replica might not.
            yield "    http-request reject if { req.hdr(content-length),length gt 18 }"
            yield from _limits(environment)
            # Ray Serve's own proxy, asked where no replica is known, knows of no application either in its first seconds. Each
            # 404 of the application itself has this header.
            yield f"    http-response {_ABSENT} if {{ status 404 }} !{{ res.hdr(x-model-version) -m found }}"
        elif section == "backend default_backend" and words[:4] == ["http-request", "return", "status", "404"]:
            done.add("no application")
            if not has_applications:
                yield f"    http-request {_ABSENT} unless {{ path_beg /-/ }}"
            yield line
        else:
            yield line


def _limits(environment: Mapping[str, str]) -> Iterator[str]:
    connections = _number(environment, CONNECTIONS, 1024)
    if connections == 0:
        return
    refusal = _ERROR % ("too_many_requests", f"more than {connections} connections at once from one address")
    yield "    stick-table type ipv6 size 100k expire 2m store conn_cur"
    yield "    tcp-request connection track-sc0 src"
    yield (
        f"    http-request return status 429 content-type application/json string '{refusal}' hdr retry-after 1 "
        f"if {{ sc0_conn_cur gt {connections} }}"
    )


def _host(environment: Mapping[str, str]) -> str:
    host = environment.get(HOST, "")
    if re.fullmatch(r"[0-9A-Za-z._-]*", host, re.ASCII) is None:
        raise FrontError(f"{HOST} is {host!r}, which is no address")
    return "*" if host == "0.0.0.0" else host  # noqa: S104 - whoever runs the service says so


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "") or str(default)
    if re.fullmatch(r"\d{1,6}", text, re.ASCII) is None:
        raise FrontError(f"{name} is {text!r}, which is no whole number")
    return int(text)


def _combined_certificate(environment: Mapping[str, str], config: Path) -> Path | None:
    """Chain and key in one file, as HAProxy wants them, readable by this user only; None where there is to be no TLS."""
    certificate, key = environment.get(CERTIFICATE), environment.get(KEY)
    if not certificate and not key:
        return None
    if not certificate or not key:
        raise FrontError(f"{CERTIFICATE} and {KEY} go together")
    combined = config.with_suffix(".pem")
    combined.unlink(missing_ok=True)
    with os.fdopen(os.open(combined, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(Path(certificate).read_bytes().rstrip() + b"\n" + Path(key).read_bytes())
    return combined


def _main(arguments: list[str], environment: Mapping[str, str]) -> None:
    binary = environment[BINARY]
    if "-f" in arguments:
        path = Path(arguments[arguments.index("-f") + 1])
        hardened = harden(path.read_text(encoding="utf-8"), environment, _combined_certificate(environment, path))
        scratch = path.with_suffix(f".{os.getpid()}")
        scratch.write_text(hardened, encoding="utf-8")
        scratch.replace(path)
    os.execv(binary, [binary, *arguments])  # noqa: S606 - that is its purpose


if __name__ == "__main__":
    try:
        _main(sys.argv[1:], os.environ)
    except (FrontError, OSError, KeyError) as problem:
        sys.exit(f"HAProxy does not start: {type(problem).__name__}: {problem}")

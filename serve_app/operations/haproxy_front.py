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
_RETRY = " hdr retry-after 1"


def _json(status: int, code: str, message: str) -> str:
    """An error as HAProxy writes it for ``return`` and ``http-error``."""
    return f"status {status} content-type application/json string '{_ERROR % (code, message)}'"


_ABSENT = "return " + _json(503, "unavailable", "the service has not started yet; try again") + _RETRY
_UNKNOWN = "return " + _json(404, "not_found", "Not Found")
# What HAProxy says by itself. It has no such choice for a request that is not HTTP, or whose headers do not arrive in time: the
# HTML of those 400 and 408 is part of its program. Ray Serve replaces 502, 503 and 504 by one 500, which no client would retry.
_HTTP_ERRORS = (
    _json(400, "bad_request", "the request is not valid HTTP, or incomplete"),
    _json(403, "forbidden", "the request is not allowed"),
    _json(408, "request_timeout", "the request did not arrive in time"),
    _json(429, "too_many_requests", "too many requests") + _RETRY,
    _json(500, "internal_error", "the service failed; its log holds the cause"),
    _json(502, "unavailable", "a replica failed; try again") + _RETRY,
    _json(503, "unavailable", "no replica can answer at the moment; try again") + _RETRY,
    _json(504, "unavailable", "a replica did not answer in time; try again") + _RETRY,
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
            yield from _defaults(environment)
        elif section == "defaults" and (words[:2] == ["option", "abortonclose"] or words[:1] == ["errorfile"]):
            # With abortonclose, a client that closes only its sending half after the request gets an error, not its answer.
            # HAProxy cannot tell it from one that has left; to answer that one, too, costs milliseconds.
            continue
        elif section in {"frontend prometheus", "listen stats"} and words[:1] == ["bind"]:
            done.add("metrics" if section == "frontend prometheus" else "stats")
            yield f"    bind 127.0.0.1:{words[1].rpartition(':')[2]}"
        elif section == "frontend http_frontend" and words[:1] == ["bind"]:
            done.add("service")
            yield from _service(words[1], environment, certificate)
        elif section == "backend default_backend" and words[:4] == ["http-request", "return", "status", "404"]:
            done.add("no application")
            if not has_applications:
                yield f"    http-request {_ABSENT} unless {{ path_beg /-/ }}"
            yield f"    http-request {_UNKNOWN}"
        else:
            yield line


def _defaults(environment: Mapping[str, str]) -> Iterator[str]:
    yield f"    timeout http-request {_number(environment, HEADER_TIMEOUT, 10)}s"
    # Otherwise HAProxy speaks HTTP/2 to each client that starts with it, and a connection with a hundred streams counts as one
    # in the limit of connections.
    yield "    option disable-h2-upgrade"
    yield from (f"    http-error {error}" for error in _HTTP_ERRORS)


def _service(ray_address: str, environment: Mapping[str, str], certificate: Path | None) -> Iterator[str]:
    address, _, port = ray_address.rpartition(":")
    tls = "" if certificate is None else f" ssl crt {certificate} alpn http/1.1 ssl-min-ver TLSv1.2"
    yield f"    bind {_host(environment) or address}:{port}{tls}"
    # HAProxy 2.8 reads 2**64 as 0, and what follows as the next request; the replica might not. So the connection ends, too.
    too_long = _json(400, "bad_request", "the Content-Length is too long")
    yield f"    http-request return {too_long} hdr connection close if {{ req.hdr(content-length),length gt 18 }}"
    # Ray Serve would tell everyone the names and prefixes of its applications. Neither Ray nor the service asks for them here.
    yield f"    http-request {_UNKNOWN} if {{ path -i /-/routes }}"
    yield from _limits(environment)
    # Ray Serve's own proxy, asked where no replica is known, knows of no application either in its first seconds. Each 404 of
    # the application itself has this header.
    yield f"    http-response {_ABSENT} if {{ status 404 }} !{{ res.hdr(x-model-version) -m found }}"


def _limits(environment: Mapping[str, str]) -> Iterator[str]:
    connections = _number(environment, CONNECTIONS, 1024)
    if connections == 0:
        return
    refusal = _json(429, "too_many_requests", f"more than {connections} connections at once from one address")
    yield "    stick-table type ipv6 size 100k expire 2m store conn_cur"
    yield "    tcp-request connection track-sc0 src"
    yield f"    http-request return {refusal}{_RETRY} if {{ sc0_conn_cur gt {connections} }}"


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

"""What is added to the configuration that Ray Serve writes for HAProxy.

Owns the difference: the ports for statistics and metrics listen on loopback, only this user can use the admin socket,
headers have to arrive in time, a client has a limited number of connections, the service's port may have TLS and may listen
beyond loopback although the replicas do not, errors are the service's JSON, and the answer is 503 while there is no
application yet. A configuration of another shape than expected is refused: HAProxy does not start, rather than start open.

Pure, and the standard library only: haproxy_front.py, a program of its own, imports it. The limits are variables of the
environment (config/serve.env), because Ray Serve gives that program nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

__all__ = ["CERTIFICATE", "CONNECTIONS", "HEADER_TIMEOUT", "HOST", "KEY", "FrontError", "admin_socket", "harden"]

HOST = "SERVE_APP_FRONT_HOST"
HEADER_TIMEOUT = "SERVE_APP_HEADER_TIMEOUT_S"
CONNECTIONS = "SERVE_APP_CONNECTIONS_PER_CLIENT"
CERTIFICATE = "SERVE_APP_TLS_CERTFILE"
KEY = "SERVE_APP_TLS_KEYFILE"

_SECTION = re.compile(r"(?:global|defaults|frontend|backend|listen)\b.*")
_ADMIN = re.compile(r"^\s*stats socket (?P<path>\S+)", re.MULTILINE)
_ERROR = '{"error":{"code":"%s","message":"%s","request_id":"","rows":[],"bad_rows":0}}'
_RETRY = " hdr retry-after 1"


def _json(status: int, code: str, message: str) -> str:
    """An error in HAProxy's syntax for ``return`` and ``http-error``."""
    return f"status {status} content-type application/json string '{_ERROR % (code, message)}'"


_ABSENT = "return " + _json(503, "unavailable", "the service has not started yet; try again") + _RETRY
_UNKNOWN = "return " + _json(404, "not_found", "Not Found")
# Errors of HAProxy itself. Those for a request that is not HTTP, or whose headers do not arrive in time, cannot be changed:
# the HTML of that 400 and 408 is part of the program. Ray Serve would replace 502, 503 and 504 by a 500, which no client
# retries.
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


def admin_socket(config: str) -> Path:
    """The path of the admin socket that a configuration names.

    Raises:
        FrontError: it names none.
    """
    found = _ADMIN.search(config)
    if found is None:
        raise FrontError("Ray Serve's configuration of HAProxy has no admin socket where it was expected")
    return Path(found["path"])


def harden(config: str, environment: Mapping[str, str], certificate: Path | None, admin: Path | None = None) -> str:
    """Completes Ray Serve's configuration of HAProxy.

    Args:
        config: as Ray Serve has written it.
        environment: the limits.
        certificate: the certificate chain, for TLS on the service's port; its key has the same name and ``.key``.
        admin: path of the admin socket; None keeps Ray Serve's.

    Raises:
        FrontError: the configuration has another shape than expected, or a limit is not a number.
    """
    done: set[str] = set()
    lines = list(_completed(config.splitlines(), environment, certificate, admin, done))
    missing = {"admin socket", "defaults", "metrics", "service", "stats", "no application"} - done
    if missing:
        raise FrontError(f"Ray Serve's configuration of HAProxy has no {', '.join(sorted(missing))} where it was expected")
    return "\n".join([*lines, ""])


def _completed(
    lines: list[str], environment: Mapping[str, str], certificate: Path | None, admin: Path | None, done: set[str]
) -> Iterator[str]:
    section = ""
    has_applications = any(line.split()[:1] == ["use_backend"] for line in lines)
    for line in lines:
        section = line.strip() if _SECTION.fullmatch(line) else section
        words = line.split()
        if section == "global" and words[:2] == ["stats", "socket"]:
            done.add("admin socket")
            yield line.replace(words[2], str(admin or words[2]), 1).replace(" mode 666 ", " mode 600 ")
        elif section == "defaults" and line.strip() == "mode http":
            done.add("defaults")
            yield line
            yield from _defaults(environment)
        elif section == "defaults" and (words[:2] == ["option", "abortonclose"] or words[:1] == ["errorfile"]):
            # With abortonclose, a client that closes only its sending half after the request gets an error instead of its
            # answer. HAProxy cannot tell it from a client that has left, but answering that one as well costs only
            # milliseconds.
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
    # Otherwise a client can start with HTTP/2, and its connection with a hundred streams counts as one in the limit of
    # connections.
    yield "    option disable-h2-upgrade"
    yield from (f"    http-error {error}" for error in _HTTP_ERRORS)


def _service(ray_address: str, environment: Mapping[str, str], certificate: Path | None) -> Iterator[str]:
    address, _, port = ray_address.rpartition(":")
    tls = "" if certificate is None else f" ssl crt {certificate} alpn http/1.1 ssl-min-ver TLSv1.2"
    yield f"    bind {_host(environment) or address}:{port}{tls}"
    # HAProxy 2.8 reads 2**64 as 0, and the body as the next request; a replica might not. So the connection is closed as well.
    too_long = _json(400, "bad_request", "the Content-Length is too long")
    yield f"    http-request return {too_long} hdr connection close if {{ req.hdr(content-length),length gt 18 }}"
    # Ray Serve would list its applications for everyone. Neither Ray nor the service needs the list here.
    yield f"    http-request {_UNKNOWN} if {{ path -i /-/routes }}"
    yield from _limits(environment)
    # As long as no replica is known, HAProxy asks Ray Serve's own proxy, which knows no application in its first seconds
    # either. Every 404 of the application itself has this header.
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
        raise FrontError(f"{HOST} is {host!r}, which is not an address")
    return "*" if host == "0.0.0.0" else host  # noqa: S104 - the user's choice


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    text = environment.get(name, "") or str(default)
    if re.fullmatch(r"\d{1,6}", text, re.ASCII) is None:
        raise FrontError(f"{name} is {text!r}, which is not a whole number")
    return int(text)

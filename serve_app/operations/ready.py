"""Whether the service on this machine is ready: what health checks of containers ask.

Owns how to reach it: port, host and scheme come from where the service has them from. Imports no Ray and nothing else that is
slow, for it runs every few seconds.
"""

from __future__ import annotations

import http.client
import os
import ssl
from pathlib import Path
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

import yaml

from serve_app.errors import NotReadyError, SettingsError
from serve_app.operations import haproxy_front as front

__all__ = ["ask_ready"]


def ask_ready(config: Path, host: str | None, timeout_s: float) -> str:
    """The URL at which the service has said that it is ready.

    Args:
        config: a Ray Serve config file, the service's own.
        host: what the service listens on, in the place of the config's.
        timeout_s: how long its answer may take.

    Raises:
        SettingsError: the config cannot be used.
        NotReadyError: the service is not ready.
    """
    url = _ready_url(config, host)
    # It is our own port, on this machine: whether the certificate, which names the service as others know it, is in order for
    # them is not what is asked here. Nor is a proxy of the environment on the way.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=context))
    try:
        with opener.open(url, timeout=timeout_s):
            return url
    except (OSError, http.client.HTTPException) as error:  # a status of 400 and above is an OSError, too
        raise NotReadyError(f"{url}: {str(error) or type(error).__name__}") from error


def _ready_url(config: Path, host: str | None) -> str:
    try:
        options = yaml.safe_load(config.read_text(encoding="utf-8"))["http_options"]
        address, port = host or str(options["host"]), int(options["port"])
        is_https = bool(options.get("ssl_certfile") or os.environ.get(front.CERTIFICATE))
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError, AttributeError) as error:
        raise SettingsError(f"{config} cannot be used: {type(error).__name__}: {error}") from error
    address = "127.0.0.1" if address == "0.0.0.0" else address  # noqa: S104 - compared, not bound
    return f"http{'s' if is_https else ''}://{address}:{port}/ready"

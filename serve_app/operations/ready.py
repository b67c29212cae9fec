"""Whether a service on this machine is ready: the one place that asks ``GET /ready``.

Owns the URL of the service. Imports neither Ray nor anything else that is slow to import: health checks of containers run
it every few seconds.
"""

from __future__ import annotations

import http.client
import os
import ssl
from pathlib import Path
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

from serve_app.errors import NotReadyError
from serve_app.operations import haproxy_front as front
from serve_app.operations.serve_config import HTTPOptions, Overrides, read_serve_config

__all__ = ["ask_ready", "ask_ready_at", "service_url"]


def ask_ready(config: Path, host: str | None, timeout_s: float) -> str:
    """Asks the service that a config file describes, and returns the URL that was asked.

    Args:
        config: a Ray Serve config file.
        host: the address that the service listens on, if not that of the config.
        timeout_s: how long the service may take to answer.

    Raises:
        SettingsError: the config cannot be used.
        NotReadyError: the service is not ready.
    """
    url = service_url(read_serve_config(config).overridden(Overrides(host=host)).http_options)
    return ask_ready_at(url, timeout_s)


def ask_ready_at(url: str, timeout_s: float) -> str:
    """Asks the service at a URL of this machine, and returns the URL that was asked.

    Raises:
        NotReadyError: it does not answer, or not with a status below 400.
    """
    # The port is our own: its certificate names the service as clients know it, so there is nothing to verify here.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = build_opener(ProxyHandler({}), HTTPSHandler(context=context))  # never through a proxy of the environment
    try:
        with opener.open(f"{url}/ready", timeout=timeout_s):
            return f"{url}/ready"
    except (OSError, http.client.HTTPException) as error:  # a status of 400 or above is an OSError, too
        raise NotReadyError(f"{url}/ready: {str(error) or type(error).__name__}") from error


def service_url(options: HTTPOptions) -> str:
    """The URL at which this machine itself reaches the service."""
    is_https = bool(options.ssl_certfile or os.environ.get(front.CERTIFICATE))
    host = "127.0.0.1" if options.host == "0.0.0.0" else options.host  # noqa: S104 - compared, not bound
    return f"http{'s' if is_https else ''}://{host}:{options.port}"

"""What the service tells about itself: whether it is up, its model, drift, and the documentation of its interface.

Starlette endpoints, off the hot path. Owns no state: everything is asked of the service.
"""

from __future__ import annotations

import msgspec
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from serve_app.api.openapi import openapi_document
from serve_app.api.response_bodies import HealthBody, ReadyBody, drift_body, model_body
from serve_app.api.responses import json_response
from serve_app.api.service import Service
from serve_app.components.manifest import Manifest

__all__ = ["Information"]


class Information:
    """The endpoints that report on a service.

    Args:
        service: the one that they report on.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def _manifest(self) -> Manifest:
        return self._service.serving.components.manifest

    async def health(self, _: Request) -> Response:
        """``GET /health``: this process is alive."""
        return _json(HealthBody("live"))

    async def ready(self, _: Request) -> Response:
        """``GET /ready``: 200 if golden rows get their recorded answers through the whole graph, otherwise 503.

        A replica that answers with another version than the one that should serve is ready, and says so.
        """
        if await self._service.is_ready():
            return _json(ReadyBody("ready", fallback=self._service.falls_back))
        return _json(ReadyBody("not ready"), status=503)

    async def model(self, _: Request) -> Response:
        """``GET /model``: the model that serves."""
        return _json(model_body(self._service.serving.components, await self._service.describe_rollout()))

    async def drift(self, _: Request) -> Response:
        """``GET /drift``: how far recent rows have moved from the training rows."""
        report = await self._service.drift()
        if report is None:
            raise HTTPException(404, "the manifest of this model does not tell how its training rows were distributed")
        return _json(drift_body(self._manifest, report))

    async def openapi(self, _: Request) -> Response:
        """``GET /openapi.json``: the OpenAPI document of the model that serves."""
        settings = self._service.settings
        has_keys = settings.access.keys_file is not None
        return json_response(msgspec.json.encode(openapi_document(self._manifest, settings.limits, has_keys=has_keys)))

    async def docs(self, request: Request) -> Response:
        """``GET /docs``: Swagger UI, which fetches nothing from other hosts."""
        root = request.scope.get("root_path", "")
        manifest = self._manifest
        return get_swagger_ui_html(
            openapi_url=f"{root}/openapi.json",
            title=f"{manifest.name} {manifest.version}",
            swagger_js_url=f"{root}/docs/assets/swagger-ui-bundle.js",
            swagger_css_url=f"{root}/docs/assets/swagger-ui.css",
            swagger_favicon_url=f"{root}/docs/assets/favicon.png",
        )


def _json(body: msgspec.Struct, status: int = 200) -> Response:
    return json_response(msgspec.json.encode(body), status)

"""The HTTP application for tests, without a server and without Ray."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from starlette.types import Message

from serve_app.api.body_budget import BodyBudget
from serve_app.api.routes import build_http_app
from serve_app.components.compiled import Components
from serve_app.config import Settings
from serve_app.serving.drift_window import WindowDrift
from serve_app.serving.pipeline import Pipeline
from serve_app.serving.rollout import RolloutDescription, UsedVersion

__all__ = ["Answer", "Service", "ask"]


class Service:
    """The service in this process: one version of the model, fused."""

    def __init__(self, settings: Settings, components: Components) -> None:
        self.settings = settings
        self.budget = BodyBudget(settings.limits.max_held_bytes)
        self.serving = Pipeline(settings, components, None)
        self.falls_back = False

    def choose(self) -> Pipeline:
        return self.serving

    async def predict(
        self, body: bytes | bytearray, *, report_bad_rows: bool, explain: bool, pipeline: Pipeline
    ) -> list[bytes]:
        return await pipeline.encode(await pipeline.score(body, report_bad_rows=report_bad_rows), explain=explain)

    async def describe_rollout(self) -> RolloutDescription:
        serving = UsedVersion(
            name="glm-26", version="1.0.0", digest=self.serving.components.digest, components="model_components"
        )
        return RolloutDescription(serving=serving, previous=None, canary=None, shadow=None, rejected=(), unavailable=())

    async def drift(self) -> WindowDrift | None:
        return None

    async def is_ready(self) -> bool:
        return True


class Answer(NamedTuple):
    status: int
    headers: dict[bytes, bytes]
    body: bytes


def ask(service: Service, method: str, path: str, body: bytes = b"", *, key: str | None = None, query: bytes = b"") -> Answer:
    """The response of the application of a service."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [] if key is None else [(b"authorization", b"Bearer " + key.encode())]
    scope = {"type": "http", "method": method, "path": path, "headers": headers, "query_string": query, "root_path": ""}

    async def answer() -> None:
        await build_http_app(service, service.budget)(scope, receive, send)

    asyncio.run(answer())
    return Answer(sent[0]["status"], dict(sent[0]["headers"]), b"".join(message["body"] for message in sent[1:]))

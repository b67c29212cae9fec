"""``POST /predict``: the hot path, from the bytes of a request to the bytes of its answers.

Owns the order of the steps, their time limits and the query parameters. It is a plain ASGI application, because the routing and
dependency machinery of a framework costs more than scoring a row. Knows nothing of rows or models: the service does.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from serve_app.api.body import ClientGoneError, read_body
from serve_app.api.body_budget import BodyBudget, Reservation
from serve_app.api.incoming import Incoming
from serve_app.api.responses import JSON_TYPE, error_response, refuse, respond, version_header
from serve_app.api.service import Service
from serve_app.serving.pipeline import Pipeline

__all__ = ["PredictEndpoint"]


class _Options(NamedTuple):
    report_bad_rows: bool = False
    explain: bool = False


class PredictEndpoint:
    """The ASGI application of ``POST /predict``.

    Args:
        service: scores the rows.
        budget: limits the bytes of all bodies that this process holds.
    """

    def __init__(self, service: Service, budget: BodyBudget) -> None:
        self._service = service
        self._limits = service.settings.limits
        self._budget = budget

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request. Whatever goes wrong, the client gets a response, unless it has disconnected."""
        pipeline = self._service.serving
        incoming = Incoming(receive)
        reservation = Reservation(self._budget)
        body: bytes | bytearray = b""
        try:
            options = _read_options(scope.get("query_string", b""))
            body = await read_body(scope, incoming, self._limits, reservation)
            pipeline = self._service.choose()  # not earlier: the version may change while a body arrives
            pieces = await self._score(body, options, pipeline)
            status, headers = 200, [JSON_TYPE]
        except ClientGoneError:
            return
        except Exception as error:  # noqa: BLE001 - the boundary: every error becomes a response
            status, headers, pieces = error_response(scope, error)
        finally:
            del body  # free the memory with its reservation: the client may be slow to read the response
            reservation.release()
        headers.append(version_header(pipeline))
        if status == 200:
            await respond(send, status, headers, pieces, self._limits.send_timeout_s)
        else:
            await refuse(incoming, send, status, headers, pieces)

    async def _score(self, body: bytes | bytearray, options: _Options, pipeline: Pipeline) -> list[bytes]:
        async with asyncio.timeout(self._limits.score_timeout_s):
            return await self._service.predict(
                body, report_bad_rows=options.report_bad_rows, explain=options.explain, pipeline=pipeline
            )


def _read_options(query: bytes) -> _Options:
    if not query:
        return _Options()
    values = parse_qs(query.decode("latin-1"))
    on_error = values.get("on_error", ["refuse"])[-1]
    if on_error not in {"refuse", "report"}:
        raise HTTPException(422, "on_error is either refuse or report")
    explain = values.get("explain", ["false"])[-1]
    if explain not in {"true", "false"}:
        raise HTTPException(422, "explain is either true or false")
    return _Options(on_error == "report", explain == "true")

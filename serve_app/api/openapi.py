"""The OpenAPI 3.1 document of the service, made of the model's manifest and of the shapes that are really sent.

Owns what the document says about paths, parameters and statuses. The schemas of responses come from their Structs; only the
schema of a row is written here, because the columns of a model are known from its manifest alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from serve_app.api.response_bodies import DriftBody, HealthBody, ModelBody, ReadyBody
from serve_app.components.manifest import Manifest
from serve_app.config import Limits
from serve_app.errors import ErrorBody
from serve_app.scoring.answers import BadRow, BinaryAnswer, MulticlassAnswer
from serve_app.scoring.schema import Column

__all__ = ["Document", "openapi_document"]

JSONSchema = dict[str, Any]
"""A JSON Schema, draft 2020-12, which OpenAPI 3.1 uses as it is."""

_REFERENCE = "#/components/schemas/{name}"
_JSON_TYPES = {"categorical": ["number", "string", "boolean"], "boolean": ["boolean", "string"], "date": ["string"]}
_EXAMPLES = {"money": "$0.00", "percent": "0%", "boolean": True, "date": "2000-01-01"}
_MEANINGS = {
    "boolean": "true or false, or a string: true, yes, t, y, false, no, f, n",
    "date": "An ISO 8601 date, with or without a time",
}
_MOST_LEVELS_SHOWN = 20


class _Shape(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    """A part of an OpenAPI document, named as in its specification."""


class Info(_Shape, frozen=True):
    """What the document describes."""

    title: str
    version: str
    description: str


class Parameter(_Shape, frozen=True):
    """A parameter of an operation; all of ours are in the query."""

    name: str
    location: Literal["query"] = msgspec.field(name="in")
    description: str
    schema: JSONSchema


class MediaType(_Shape, frozen=True):
    """A body in one format."""

    schema: JSONSchema
    example: object = None


class RequestBody(_Shape, frozen=True):
    """What an operation reads."""

    content: dict[str, MediaType]
    required: bool = False


class Response(_Shape, frozen=True):
    """What an operation answers with one status."""

    description: str
    content: dict[str, MediaType]


class Operation(_Shape, frozen=True):
    """One method of one path."""

    summary: str
    operation_id: str
    responses: dict[str, Response]
    description: str = ""
    parameters: tuple[Parameter, ...] = ()
    request_body: RequestBody | None = None
    security: tuple[dict[str, list[str]], ...] = ()


class PathItem(_Shape, frozen=True):
    """The methods of one path."""

    get: Operation | None = None
    post: Operation | None = None


class Components(_Shape, frozen=True):
    """What other parts of the document refer to."""

    schemas: dict[str, JSONSchema]
    security_schemes: dict[str, dict[str, str]] = {}


class Document(_Shape, frozen=True):
    """An OpenAPI document."""

    openapi: str
    info: Info
    paths: dict[str, PathItem]
    components: Components


def openapi_document(manifest: Manifest, limits: Limits, *, has_keys: bool = False) -> Document:
    """The document for one model.

    Args:
        manifest: of the model.
        limits: are mentioned where they apply.
        has_keys: whether requests need API keys.
    """
    description = "Scores tabular rows with a fitted classifier. The answer to a row does not depend on the rows sent with it."
    security_schemes = {"apiKey": {"type": "http", "scheme": "bearer"}} if has_keys else {}
    return Document(
        openapi="3.1.0",
        info=Info(manifest.name, manifest.version, description),
        paths={
            "/predict": PathItem(post=_predict(manifest, limits, has_keys=has_keys)),
            "/health": PathItem(get=_health()),
            "/ready": PathItem(get=_ready()),
            "/drift": PathItem(get=_drift(has_keys=has_keys)),
            "/model": PathItem(get=_model(has_keys=has_keys)),
        },
        components=Components(_schemas(manifest), security_schemes),
    )


def _predict(manifest: Manifest, limits: Limits, *, has_keys: bool) -> Operation:
    row, answers = _reference("Row"), [_reference(_answer_type(manifest).__name__), _reference("BadRow")]
    rows = MediaType({"oneOf": [{"type": "array", "items": row}, row]}, [_example(manifest)])
    return Operation(
        summary="Score one row or many",
        operation_id="predict",
        description=f"At most {limits.max_rows} rows and {limits.max_body_bytes} bytes, optionally compressed by gzip. The "
        "answers are in the order of the rows. Of a key that a row has twice, the last value counts; keys that the model does "
        "not use are ignored.",
        parameters=_predict_parameters(limits),
        request_body=RequestBody({"application/json": rows}, required=True),
        responses={
            "200": _json("One answer per row", {"type": "array", "items": {"anyOf": answers}}),
            "400": _error("The body is not JSON, or not gzip although its encoding says so"),
            "408": _error("The body did not arrive in time"),
            "413": _error("Too many bytes or rows"),
            "415": _error("The body is compressed, but not by gzip"),
            "422": _error("The body contains no rows, or a row cannot be scored"),
            "500": _error("The service failed"),
            "502": _error("A replica failed before it answered"),
            "503": _error("The rows cannot be scored at the moment"),
            "504": _error("A replica did not answer in time"),
            **_key_errors(has_keys=has_keys),
        },
        security=_security(has_keys=has_keys),
    )


def _predict_parameters(limits: Limits) -> tuple[Parameter, ...]:
    return (
        Parameter(
            "on_error",
            "query",
            "What happens to a row that cannot be scored: the request is refused, or an error object replaces the answer.",
            {"type": "string", "enum": ["refuse", "report"], "default": "refuse"},
        ),
        Parameter(
            "explain",
            "query",
            f"Whether each answer says how much each column contributes to it; for at most {limits.max_explained_rows} rows.",
            {"type": "boolean", "default": False},
        ),
    )


def _health() -> Operation:
    return Operation("Whether the process is alive", "health", {"200": _json("It is", _reference("HealthBody"))})


def _ready() -> Operation:
    body = _reference("ReadyBody")
    summary = "Whether golden rows get their recorded answers through both deployments"
    return Operation(summary, "ready", {"200": _json("They do", body), "503": _json("They do not yet", body)})


def _drift(*, has_keys: bool) -> Operation:
    return Operation(
        summary="How far the rows of the last hour have moved from the training rows",
        operation_id="drift",
        responses={
            "200": _json("Population stability indices", _reference("DriftBody")),
            "404": _error("The manifest does not tell how the training rows were distributed"),
            "503": _error("The counts of the replicas are not available at the moment"),
            **_key_errors(has_keys=has_keys),
        },
        security=_security(has_keys=has_keys),
    )


def _model(*, has_keys: bool) -> Operation:
    responses = {"200": _json("Its manifest and versions", _reference("ModelBody")), **_key_errors(has_keys=has_keys)}
    return Operation("The model that serves", "model", responses, security=_security(has_keys=has_keys))


def _security(*, has_keys: bool) -> tuple[dict[str, list[str]], ...]:
    return ({"apiKey": []},) if has_keys else ()


def _key_errors(*, has_keys: bool) -> dict[str, Response]:
    if not has_keys:
        return {}
    return {
        "401": _error("No API key, or an invalid one"),
        "403": _error("The API key has another scope"),
        "429": _error("The API key exceeds its rate limit"),
    }


def _json(description: str, schema: JSONSchema) -> Response:
    return Response(description, {"application/json": MediaType(schema)})


def _error(description: str) -> Response:
    return _json(description, _reference("ErrorBody"))


def _reference(name: str) -> JSONSchema:
    return {"$ref": _REFERENCE.format(name=name)}


def _answer_type(manifest: Manifest) -> type[BinaryAnswer | MulticlassAnswer]:
    return BinaryAnswer if len(manifest.classes) == 2 else MulticlassAnswer


def _schemas(manifest: Manifest) -> dict[str, JSONSchema]:
    answer = _answer_type(manifest)
    _, schemas = msgspec.json.schema_components(
        [answer, BadRow, ErrorBody, HealthBody, ReadyBody, ModelBody, DriftBody], ref_template=_REFERENCE
    )
    for schema in schemas.values():
        if "description" in schema:
            schema["description"] = inspect.cleandoc(schema["description"])
    schemas[answer.__name__]["properties"]["predicted_class"] = {"enum": list(manifest.classes)}
    return {"Row": _row(manifest), **schemas}


def _row(manifest: Manifest) -> JSONSchema:
    columns = [manifest.schema.column(name) for name in manifest.selected_features]
    return {
        "type": "object",
        "description": "One row of the table. Other keys are ignored.",
        "required": list(manifest.selected_features),
        "properties": {column.name: _cell(column) for column in columns},
    }


def _cell(column: Column) -> JSONSchema:
    types = list(_JSON_TYPES.get(column.kind, ["number", "string"]))
    if column.null == "impute":
        types.append("null")
    return {"type": types, "description": f"{_meaning(column)}; {_of_null(column)}"}


def _meaning(column: Column) -> str:
    if not column.is_categorical:
        return _MEANINGS.get(column.kind, f"A number, or a string that is one ({column.kind})")
    shown = column.levels[:_MOST_LEVELS_SHOWN]
    more = f" and {len(column.levels) - len(shown)} more" if len(column.levels) > len(shown) else ""
    unknown = "any other is scored as null" if column.unknown == "as_null" else "any other is refused"
    return f"One of {', '.join(shown)}{more}; {unknown}"


def _of_null(column: Column) -> str:
    return "null is imputed as in training" if column.null == "impute" else "null is refused"


def _example(manifest: Manifest) -> Mapping[str, object]:
    """A row that can be scored, made of the schema alone: the document is public, the rows of a table are not."""
    columns = [manifest.schema.column(name) for name in manifest.selected_features]
    return {column.name: column.levels[0] if column.is_categorical else _EXAMPLES.get(column.kind, 0) for column in columns}

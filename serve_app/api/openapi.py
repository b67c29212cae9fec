"""The OpenAPI document of the service, built from the manifest, so that it is true of the model that is served.

Owns the description of the HTTP interface for people and tools; api.py owns the interface.
"""

from __future__ import annotations

from typing import Any

from serve_app.components.manifest import Manifest
from serve_app.config import Limits
from serve_app.scoring.schema import Column

__all__ = ["openapi_document"]

_TYPES = {"categorical": ["number", "string", "boolean"], "boolean": ["boolean", "string"], "date": ["string"]}
_EXAMPLES = {"money": "$0.00", "percent": "0%", "boolean": True, "date": "2000-01-01"}
_MEANINGS = {
    "boolean": "true or false, or text: true, yes, t, y, false, no, f, n",
    "date": "A date by ISO 8601, with or without a time",
}


def openapi_document(manifest: Manifest, limits: Limits, *, asks_for_keys: bool = False) -> dict[str, Any]:
    """An OpenAPI 3.0 document as plain data."""
    document = _document(manifest, limits)
    if asks_for_keys:
        document["components"]["securitySchemes"] = {"apiKey": {"type": "http", "scheme": "bearer"}}
        for path, method in (("/predict", "post"), ("/model", "get"), ("/drift", "get")):
            operation = document["paths"][path][method]
            operation["security"] = [{"apiKey": []}]
            operation["responses"] |= {
                "401": _error("No API key, or none that is valid"),
                "403": _error("The API key is for something else"),
                "429": _error("The API key is used up for now"),
            }
    return document


def _document(manifest: Manifest, limits: Limits) -> dict[str, Any]:
    row, answer = {"$ref": "#/components/schemas/Row"}, {"$ref": "#/components/schemas/Answer"}
    return {
        "openapi": "3.0.3",
        "info": {
            "title": manifest.name,
            "version": manifest.version,
            "description": "Scores tabular rows with a fitted classifier. A row has one answer, whatever it travels with.",
        },
        "paths": {
            "/predict": {
                "post": {
                    "summary": "Score one row or many",
                    "description": f"At most {limits.max_rows} rows and {limits.max_body_bytes} bytes. The answers are in "
                    "the order of the rows. A key that stands twice in a row counts with its last value; keys that the "
                    "model does not use are ignored.",
                    "operationId": "predict",
                    "parameters": [
                        {
                            "name": "on_error",
                            "in": "query",
                            "description": "What a bad row does: refuse the request, or have an error object in its place.",
                            "schema": {"type": "string", "enum": ["refuse", "report"], "default": "refuse"},
                        },
                        {
                            "name": "explain",
                            "in": "query",
                            "description": "Whether each answer says what each column contributes to it; of at most "
                            f"{limits.max_explained_rows} rows.",
                            "schema": {"type": "boolean", "default": False},
                        },
                    ],
                    "requestBody": {
                        "required": True,
                        "content": {
                            "application/json": {
                                "schema": {"oneOf": [{"type": "array", "items": row}, row]},
                                "example": [_example(manifest)],
                            }
                        },
                    },
                    "responses": {
                        "200": _json(
                            "One answer per row",
                            {"type": "array", "items": {"oneOf": [answer, {"$ref": "#/components/schemas/BadRow"}]}},
                        ),
                        "400": _error("The body is no JSON, or not the gzip that it says it is"),
                        "408": _error("The body did not arrive in time"),
                        "413": _error("Too many bytes or rows"),
                        "415": _error("The body is compressed otherwise than by gzip"),
                        "422": _error("The body holds no rows, or a row cannot be scored"),
                        "500": _error("The service failed"),
                        "503": _error("The rows could not be scored just now"),
                    },
                }
            },
            "/health": {"get": _get("Whether the process is live", {"200": _json("It is", {"type": "object"})})},
            "/ready": {
                "get": _get(
                    "Whether golden rows get their recorded answers through both deployments",
                    {"200": _json("They do", {"type": "object"}), "503": _json("Not yet", {"type": "object"})},
                )
            },
            "/drift": {
                "get": _get(
                    "How far the rows of the last hour have moved from those that trained the model",
                    {
                        "200": _json("Population stability indices", {"type": "object"}),
                        "404": _error("The manifest does not tell how the training rows were distributed"),
                        "503": _error("What the replicas have counted could not be asked for"),
                    },
                )
            },
            "/model": {"get": _get("The model that is served", {"200": _json("It", {"type": "object"})})},
        },
        "components": {
            "schemas": {
                "Row": _row(manifest),
                "Answer": _answer(manifest),
                "BadRow": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {
                        "error": {
                            "type": "object",
                            "required": ["code", "message", "rows"],
                            "properties": {
                                "code": {"type": "string"},
                                "message": {"type": "string"},
                                "rows": {"type": "array", "items": {"$ref": "#/components/schemas/FieldProblem"}},
                            },
                        }
                    },
                },
                "FieldProblem": {
                    "type": "object",
                    "required": ["row", "field", "code", "message"],
                    "properties": {
                        "row": {"type": "integer"},
                        "field": {"type": "string", "nullable": True},
                        "code": {"type": "string"},
                        "message": {"type": "string"},
                    },
                },
                "Error": {
                    "type": "object",
                    "required": ["error"],
                    "properties": {
                        "error": {
                            "type": "object",
                            "required": ["code", "message", "request_id", "rows", "bad_rows"],
                            "properties": {
                                "code": {"type": "string"},
                                "message": {"type": "string"},
                                "request_id": {"type": "string"},
                                "rows": {
                                    "type": "array",
                                    "maxItems": 100,
                                    "items": {"$ref": "#/components/schemas/FieldProblem"},
                                },
                                "bad_rows": {"type": "integer"},
                            },
                        }
                    },
                },
            }
        },
    }


def _get(summary: str, responses: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "responses": responses}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _error(description: str) -> dict[str, Any]:
    return _json(description, {"$ref": "#/components/schemas/Error"})


def _row(manifest: Manifest) -> dict[str, Any]:
    columns = [manifest.schema.column(name) for name in manifest.selected_features]
    return {
        "type": "object",
        "required": list(manifest.selected_features),
        "properties": {column.name: _cell(column) for column in columns},
        "additionalProperties": True,
    }


def _example(manifest: Manifest) -> dict[str, Any]:
    """A row that can be scored, made of the schema alone: this document is for everybody, rows of a table are not."""
    columns = [manifest.schema.column(name) for name in manifest.selected_features]
    return {column.name: column.levels[0] if column.is_categorical else _EXAMPLES.get(column.kind, 0) for column in columns}


def _cell(column: Column) -> dict[str, Any]:
    missing = "null is imputed as in training" if column.null == "impute" else "null is refused"
    kinds = _TYPES.get(column.kind, ["number", "string"])
    if column.is_categorical:
        unknown = "another is scored as if null" if column.unknown == "as_null" else "another is refused"
        shown = column.levels[:20]
        more = f" and {len(column.levels) - len(shown)} more" if len(column.levels) > len(shown) else ""
        meaning = f"One of {', '.join(shown)}{more}; {unknown}"
    else:
        meaning = _MEANINGS.get(column.kind, f"A number, or text that is one ({column.kind})")
    return {
        "anyOf": [{"type": kind, "nullable": column.null == "impute"} for kind in kinds],
        "description": f"{meaning}; {missing}",
    }


def _answer(manifest: Manifest) -> dict[str, Any]:
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    own: dict[str, Any] = (
        {"probability_positiveclass": probability}
        if len(manifest.classes) == 2
        else {"probabilities": {"type": "object", "additionalProperties": probability}}
    )
    properties = {
        **own,
        "probability_predictedclass": probability,
        "selected_features": {"type": "array", "items": {"type": "string"}},
        "predicted_class": {"enum": list(manifest.classes)},
    }
    warnings = {"type": "array", "items": {"type": "object"}, "description": "Only where there is something to say"}
    more = {"warnings": warnings, "explanation": _explanation()}
    return {"type": "object", "required": list(properties), "properties": {**properties, **more}}


def _explanation() -> dict[str, Any]:
    number = {"type": "number"}
    reason = {"column": {"type": "string"}, "text": {"type": "string"}, "contribution": number}
    properties = {
        "of_class": {"description": "Of two classes the positive one, of more the predicted one"},
        "scale": {"type": "string", "enum": ["log_odds", "class_score", "probability"]},
        "base": number,
        "score": {"type": "number", "description": "The base and all contributions"},
        "contributions": {"type": "object", "additionalProperties": number},
        "reasons": {
            "type": "array",
            "description": "The strongest contributions in words",
            "items": {"type": "object", "required": list(reason), "properties": reason},
        },
    }
    return {
        "type": "object",
        "description": "Only with explain=true",
        "required": list(properties),
        "properties": properties,
    }

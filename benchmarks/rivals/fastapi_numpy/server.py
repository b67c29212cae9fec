"""Hand-written for speed: FastAPI without its dependency machinery on the hot route, orjson, arrays.

uvicorn --workers 2 --loop uvloop --http httptools --no-access-log benchmarks.rivals.fastapi_numpy.server:app
"""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path

import orjson
from fastapi import FastAPI, Request, Response

from benchmarks.rivals.arrays import CompiledModel

_model = CompiledModel(Path("model_components"))
_numeric = [itemgetter(name) for name in _model.numeric]
_categorical = [itemgetter(name) for name in _model.categorical]

app = FastAPI()


@app.post("/predict")
async def predict(request: Request) -> Response:
    """Probabilities of a JSON array of rows."""
    try:
        rows = orjson.loads(await request.body())
        numbers = [list(map(cell, rows)) for cell in _numeric]
        categories = [list(map(cell, rows)) for cell in _categorical]
        probabilities = _model.score(numbers, categories)
    except (KeyError, TypeError, ValueError) as error:
        return Response(orjson.dumps({"error": str(error)}), status_code=422, media_type="application/json")
    return Response(orjson.dumps(_model.answers(probabilities)), media_type="application/json")

"""Flask as a take-home exercise has it: the artefacts are read from disk for each request, the rows become DataFrames.

gunicorn --workers 2 benchmarks.rivals.flask.server:app
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from flask import Flask, Response, jsonify, request

from benchmarks.rivals.tables import answers, encode, load_artefacts, score

app = Flask(__name__)


@app.post("/predict")
def predict() -> Response:
    """Probabilities of a JSON array of rows."""
    artefacts = load_artefacts(Path("model_components"))
    probabilities = score(artefacts, encode(artefacts, pd.DataFrame(request.get_json())))
    return jsonify(answers(artefacts.manifest, probabilities))

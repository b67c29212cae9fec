"""Flask in the simplest form: each request reads the artefacts from disk and turns its rows into a DataFrame.

gunicorn --workers 2 benchmarks.rivals.flask.server:app
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from flask import Flask, Response, jsonify, request

from benchmarks.rivals.artefacts import answers, load_artefacts
from benchmarks.rivals.tables import encode, score

app = Flask(__name__)


@app.post("/predict")
def predict() -> Response:
    """Probabilities of a JSON array of rows."""
    artefacts = load_artefacts(Path("model_components"))
    probabilities = score(artefacts, encode(artefacts, pd.DataFrame(request.get_json())))
    return jsonify(answers(artefacts.manifest, probabilities))

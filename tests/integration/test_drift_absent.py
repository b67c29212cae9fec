"""GET /drift where the manifest does not tell how the training rows were distributed."""

from __future__ import annotations

import requests
from support.serving import Server


def test_the_drift_of_the_published_model_cannot_be_told(server: Server) -> None:
    response = requests.get(f"{server.url}/drift", timeout=30)
    assert response.status_code == 404
    assert "does not tell how its training rows were distributed" in response.json()["error"]["message"]

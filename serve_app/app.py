"""The application: the only place where the parts meet.

``serve run config/serve_config.yaml`` imports ``build_app`` and calls it with the file's ``args``. Replicas, queues and
CPUs stand in the same file under ``deployments``, where Ray Serve reads them.
"""

from __future__ import annotations

from typing import Any

import msgspec
from ray import serve
from ray.serve import Application

from serve_app.api.routes import ASGIApp, build_http_app
from serve_app.components.loading import trust_of, verify_files
from serve_app.config import load_settings, resolve_path
from serve_app.serving.classifier import Classifier
from serve_app.serving.preprocessor import Preprocessor

__all__ = ["build_app"]


class PreprocessorIngress(Preprocessor):
    """A Preprocessor that answers HTTP."""

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """Ray Serve calls this in the replica, once it is constructed."""
        return build_http_app(self)


def build_app(args: dict[str, Any]) -> Application:
    """HTTP → Preprocessor → Classifier, as Ray Serve's application graph; without a Classifier in the fused topology.

    All replicas of what is built take the components that are there now. One that starts when their folder has been written
    anew says so and does not serve them, or two models would answer in turn.

    Raises:
        SettingsError: ``args`` cannot be used.
        ComponentsError: the components that they name cannot be.
    """
    settings = load_settings(args)
    digest = verify_files(resolve_path(settings.components), trust_of(settings))
    settings = msgspec.structs.replace(settings, components_sha256=digest)
    is_fused = settings.topology == "fused"
    classifier = None if is_fused else serve.deployment(Classifier, name="Classifier").bind(settings)
    ingress = serve.ingress()(PreprocessorIngress)
    return serve.deployment(ingress, name="Preprocessor").bind(settings, classifier)

"""The application: joins the deployments and HTTP into one Ray Serve application.

``serve run config/serve_config.yaml`` imports ``build_app`` and calls it with the file's ``args``. Ray Serve itself reads
replicas, queues and CPUs from ``deployments`` in the same file.
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
        """Ray Serve calls this in the replica after its constructor."""
        return build_http_app(self)


def build_app(args: dict[str, Any]) -> Application:
    """Ray Serve's application graph: HTTP → Preprocessor → Classifier, or HTTP → Preprocessor in the fused topology.

    The digest of the components is fixed here for all replicas. A replica that starts after their folder was rewritten reports
    the difference instead of serving them: otherwise two models would answer side by side.

    Raises:
        SettingsError: ``args`` cannot be used.
        ComponentsError: the components that ``args`` names cannot be used.
    """
    settings = load_settings(args)
    digest = verify_files(resolve_path(settings.components), trust_of(settings))
    settings = msgspec.structs.replace(settings, components_sha256=digest)
    is_fused = settings.topology == "fused"
    classifier = None if is_fused else serve.deployment(Classifier, name="Classifier").bind(settings)
    ingress = serve.ingress()(PreprocessorIngress)
    return serve.deployment(ingress, name="Preprocessor").bind(settings, classifier)

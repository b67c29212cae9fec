"""The coefficients of a logit of two classes, and their standard errors."""

from __future__ import annotations

import numpy as np

from serve_app.scoring.arrays import Array
from serve_app.training.methods import Fitted, Method

__all__ = ["coefficients", "standard_errors"]


def coefficients(
    method: Method, model: Fitted, values: Array, probabilities: Array
) -> tuple[dict[str, float], dict[str, float]]:
    """Coefficients and standard errors by feature, for the rows that the model was fitted to.

    Only a logit of two classes that is not calibrated has coefficients, and only one without a penalty has errors.

    Args:
        method: that fitted the model.
        model: the model.
        values: shape (rows, columns of the schema).
        probabilities: shape (rows, classes).
    """
    if not hasattr(model.model, "coef_") or probabilities.shape[1] > 2:
        return {}, {}
    names = [feature.name for feature in model.features]
    found = dict(zip(names, model.model.coef_[0].tolist(), strict=True))
    if method != "two-stage":
        return found, {}
    errors = standard_errors(model.encoder.encode(values), probabilities[:, 1])
    return found, dict(zip(names, errors.tolist(), strict=True))


def standard_errors(matrix: Array, probabilities: Array) -> Array:
    """Roots of the diagonal of (X'WX)⁻¹, W = p (1 - p): the inverse Hessian of the coefficients' log-likelihood.

    Infinite where the rows do not determine the coefficients.

    Args:
        matrix: shape (rows, features).
        probabilities: of the positive class, shape (rows,).
    """
    hessian = matrix.T @ (matrix * (probabilities * (1 - probabilities))[:, np.newaxis])
    eigenvalues = np.linalg.eigvalsh(hessian)
    if eigenvalues[0] <= eigenvalues[-1] * len(hessian) * np.finfo(np.float64).eps:
        return np.full(len(hessian), np.inf)
    return np.sqrt(np.diag(np.linalg.inv(hessian)))

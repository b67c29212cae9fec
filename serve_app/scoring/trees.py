"""Ensembles of trees as arrays: a forest, or boosted trees, walked by numpy for all rows and all trees at once.

Owns what the fitted trees of scikit-learn become. One call of ``predict_proba`` takes scikit-learn a millisecond or more for
one row, most of it for checks; walking the arrays takes a fifth of that. The trees' values are added one tree after the other,
as scikit-learn adds them, so that a row's sum is the same to the last bit, whoever makes it and whatever it is scored with.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from serve_app.scoring.arrays import Array

__all__ = ["BoostedTreesScorer", "TreeEnsembleScorer", "compile_trees", "softmax"]

_MAX_STEPS = 4_000_000  # trees times rows that are walked at once: their arrays stay under 100 MB
_SMALL_BATCH_ROWS = 64


class _Nodes(NamedTuple):
    """The nodes of all trees, one tree behind the other; a leaf leads to itself."""

    feature: NDArray[np.intp]
    threshold: Array
    left: NDArray[np.intp]
    right: NDArray[np.intp]
    missing_goes_left: NDArray[np.bool_]
    values: Array  # (nodes, outputs of a tree)
    roots: NDArray[np.intp]
    depth: int


class TreeEnsembleScorer:
    """Walks each row down each tree, adds what stands at the leaves, and makes probabilities of the sums.

    Args:
        nodes: of all trees.
        baseline: what the sums start with, shape (outputs,); a tree has as many outputs, or each in turn has one.
        finish: from the sums, shape (rows, outputs), to probabilities, shape (rows, classes).
        is_single: whether the trees see features as single-precision numbers, as a forest's do.
    """

    scored_by = "compiled trees"

    def __init__(self, nodes: _Nodes, baseline: Array, finish: Callable[[Array], Array], *, is_single: bool) -> None:
        self._nodes = nodes
        self._baseline = baseline
        self._finish = finish
        self._is_single = is_single

    def score(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, classes) for a matrix of shape (rows, features), NaN where a feature is missing."""
        most_rows = max(1, _MAX_STEPS // len(self._nodes.roots))
        if len(matrix) > most_rows:
            pieces = range(0, len(matrix), most_rows)
            return np.concatenate([self.score(matrix[start : start + most_rows]) for start in pieces])
        return self._finish(self.sums(matrix))

    def sums(self, matrix: Array) -> Array:
        """What the probabilities are made of, shape (rows, outputs); not for more rows than fit into memory at once."""
        nodes = self._nodes
        if self._is_single:
            with np.errstate(over="ignore"):  # beyond the largest single: infinite, and on the right of every threshold
                matrix = matrix.astype(np.float32).astype(np.float64)
        rows = np.arange(len(matrix))
        has_missing = bool(np.isnan(matrix).any())
        at = np.repeat(nodes.roots[:, np.newaxis], len(matrix), axis=1)  # (trees, rows)
        for _ in range(nodes.depth):
            cells = matrix[rows, nodes.feature[at]]
            goes_left = cells <= nodes.threshold[at]
            if has_missing:
                goes_left |= np.isnan(cells) & nodes.missing_goes_left[at]
            at = np.where(goes_left, nodes.left[at], nodes.right[at])
        outputs = len(self._baseline)
        leaves = nodes.values[at]  # (trees, rows, outputs of a tree)
        if leaves.shape[2] != outputs:  # each tree has one output, in turn
            leaves = leaves.reshape(-1, outputs, len(matrix)).transpose(0, 2, 1)
        start = np.broadcast_to(self._baseline, (1, len(matrix), outputs))
        # np.sum would add in another order for one row than for many; accumulate has no choice.
        sums: Array = np.add.accumulate(np.concatenate([start, leaves]), axis=0)[-1]
        return sums


class BoostedTreesScorer:
    """Boosted trees: small batches by the compiled trees, large ones by scikit-learn, which walks them in compiled code.

    Both add the same values in the same order; that they agree to the last bit is measured when components are loaded.
    """

    scored_by = "compiled trees; large batches by scikit-learn"

    def __init__(self, compiled: TreeEnsembleScorer, estimator: Any) -> None:
        self.compiled = compiled
        nameless = copy.copy(estimator)  # one that does not miss the names of a matrix's columns
        vars(nameless).pop("feature_names_in_", None)
        self._predict = nameless.predict_proba
        self._decide = nameless.decision_function

    def score(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, classes) for a matrix of shape (rows, features)."""
        if len(matrix) <= _SMALL_BATCH_ROWS:
            return self.compiled.score(matrix)
        return np.asarray(self._predict(matrix))

    def margins(self, matrix: Array) -> Array:
        """The log-odds of the positive class, shape (rows, 1), or the sums of the softmax, shape (rows, classes)."""
        if len(matrix) <= _SMALL_BATCH_ROWS:
            return self.compiled.sums(matrix)
        return np.reshape(self._decide(matrix), (len(matrix), -1))


def compile_trees(estimator: Any) -> TreeEnsembleScorer | None:
    """The scorer that equals ``estimator.predict_proba``; None where the estimator is no ensemble that is known here.

    Known are HistGradientBoostingClassifier without categorical features of its own, DecisionTreeClassifier,
    RandomForestClassifier and ExtraTreesClassifier.
    """
    from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.tree import DecisionTreeClassifier

    if isinstance(estimator, HistGradientBoostingClassifier) and estimator.is_categorical_ is None:
        return _compile_boosted(estimator)
    if isinstance(estimator, DecisionTreeClassifier):
        return _compile_forest([estimator])
    if isinstance(estimator, (RandomForestClassifier, ExtraTreesClassifier)):
        return _compile_forest(estimator.estimators_)
    return None


def softmax(scores: Array) -> Array:
    """Probabilities of shape (rows, classes) for scores of that shape, each row by itself."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _compile_boosted(estimator: Any) -> TreeEnsembleScorer:
    trees = [tree.nodes for trees in estimator._predictors for tree in trees]  # noqa: SLF001 - there is no public way to them
    nodes = _join(
        [
            (
                tree["feature_idx"],
                tree["num_threshold"],
                tree["left"],
                tree["right"],
                tree["missing_go_to_left"],
                tree["is_leaf"],
                tree["value"][:, np.newaxis],
            )
            for tree in trees
        ]
    )
    baseline = np.ravel(estimator._baseline_prediction).astype(np.float64)  # noqa: SLF001
    return TreeEnsembleScorer(nodes, baseline, _positive if len(baseline) == 1 else softmax, is_single=False)


def _compile_forest(trees: Sequence[Any]) -> TreeEnsembleScorer:
    parts = []
    for tree in trees:
        state = tree.tree_.__getstate__()
        nodes = state["nodes"]
        values = state["values"][:, 0, :]
        leaf = nodes["left_child"] < 0
        parts.append(
            (
                nodes["feature"],
                nodes["threshold"],
                nodes["left_child"],
                nodes["right_child"],
                nodes["missing_go_to_left"],
                leaf,
                values,
            )
        )
    count = float(len(trees))
    classes = len(trees[0].classes_)
    return TreeEnsembleScorer(_join(parts), np.zeros(classes), lambda sums: sums / count, is_single=True)


def _positive(sums: Array) -> Array:
    positive = expit(sums[:, 0])
    return np.column_stack([1.0 - positive, positive])


def _join(trees: Sequence[tuple[Any, ...]]) -> _Nodes:
    """The trees one behind the other: numbers of nodes count on."""
    sizes = [len(tree[0]) for tree in trees]
    roots = np.cumsum([0, *sizes[:-1]]).astype(np.intp)
    columns: list[list[Any]] = [[] for _ in range(6)]
    depth = 0
    for root, (feature, threshold, left, right, missing, leaf, value) in zip(roots, trees, strict=True):
        is_leaf = np.asarray(leaf, dtype=bool)
        itself = np.arange(len(is_leaf))
        lefts, rights = (np.where(is_leaf, itself, np.asarray(child, dtype=np.intp)) for child in (left, right))
        depth = max(depth, _depth(lefts, rights, is_leaf))
        for column, content in zip(
            columns,
            (
                np.where(is_leaf, 0, np.asarray(feature, dtype=np.intp)),
                np.where(is_leaf, np.inf, np.asarray(threshold, dtype=np.float64)),
                lefts + root,
                rights + root,
                np.asarray(missing, dtype=bool),
                np.asarray(value, dtype=np.float64),
            ),
            strict=True,
        ):
            column.append(content)
    feature, threshold, left, right, missing, value = (np.concatenate(column) for column in columns)
    return _Nodes(feature, threshold, left, right, missing, value, roots, depth)


def _depth(left: NDArray[np.intp], right: NDArray[np.intp], is_leaf: NDArray[np.bool_]) -> int:
    """How many steps lead from the root to the lowest leaf."""
    steps = 0
    level = np.array([0])
    while not is_leaf[level].all():
        inner = level[~is_leaf[level]]
        level = np.concatenate([left[inner], right[inner]])
        steps += 1
    return steps

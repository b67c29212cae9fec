"""Ensembles of trees as arrays: numpy walks all rows down all trees of a forest, or of boosted trees, at once.

Owns the translation of scikit-learn's fitted trees. One call of ``predict_proba`` needs a millisecond or more for one row, most
of it for checks; walking the arrays needs a fifth of that. The values of the trees are added one tree after the other, as
scikit-learn does, so a row's sum is the same to the last bit in both, and whatever the row is scored with.
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

_MAX_STEPS = 4_000_000  # trees times rows that are walked at once: keeps their arrays under 100 MB
_SMALL_BATCH_ROWS = 64


class _Tree(NamedTuple):
    """The nodes of one tree, as scikit-learn numbers them; what a leaf has instead of a feature and children is ignored."""

    feature: NDArray[Any]
    threshold: NDArray[Any]
    left: NDArray[Any]
    right: NDArray[Any]
    missing_goes_left: NDArray[Any]
    is_leaf: NDArray[np.bool_]
    values: NDArray[Any]  # (nodes, outputs of a tree)


class _Nodes(NamedTuple):
    """The nodes of all trees, one tree after the other; a leaf leads to itself."""

    feature: NDArray[np.intp]
    threshold: Array
    left: NDArray[np.intp]
    right: NDArray[np.intp]
    missing_goes_left: NDArray[np.bool_]
    values: Array  # (nodes, outputs of a tree)
    roots: NDArray[np.intp]
    depth: int


class TreeEnsembleScorer:
    """Walks each row down each tree, adds the values of the leaves, and turns the sums into probabilities.

    Args:
        nodes: of all trees.
        baseline: the start of the sums, shape (outputs,). A tree has as many outputs, or one: then the trees take turns.
        finish: turns sums of shape (rows, outputs) into probabilities of shape (rows, classes).
        is_single: whether the trees compare features in single precision, as those of a forest do.
    """

    scored_by = "compiled trees"

    def __init__(self, nodes: _Nodes, baseline: Array, finish: Callable[[Array], Array], *, is_single: bool) -> None:
        self._nodes = nodes
        self._baseline = baseline
        self._finish = finish
        self._is_single = is_single

    def score(self, matrix: Array) -> Array:
        """Probabilities of shape (rows, classes) for a matrix of shape (rows, features), with NaN for missing features."""
        most_rows = max(1, _MAX_STEPS // len(self._nodes.roots))
        if len(matrix) > most_rows:
            pieces = range(0, len(matrix), most_rows)
            return np.concatenate([self.score(matrix[start : start + most_rows]) for start in pieces])
        return self._finish(self.sums(matrix))

    def sums(self, matrix: Array) -> Array:
        """What the probabilities are made of, shape (rows, outputs); not for more rows than fit into memory at once."""
        nodes = self._nodes
        if self._is_single:
            with np.errstate(over="ignore"):  # infinite beyond the largest single, which is right of every threshold
                matrix = matrix.astype(np.float32).astype(np.float64)
        outputs = len(self._baseline)
        leaves = nodes.values[_walk(nodes, matrix)]  # (trees, rows, outputs of a tree)
        if leaves.shape[2] != outputs:  # the trees take turns
            leaves = leaves.reshape(-1, outputs, len(matrix)).transpose(0, 2, 1)
        start = np.broadcast_to(self._baseline, (1, len(matrix), outputs))
        # np.sum adds in another order for one row than for many; accumulate cannot.
        sums: Array = np.add.accumulate(np.concatenate([start, leaves]), axis=0)[-1]
        return sums


def _walk(nodes: _Nodes, matrix: Array) -> NDArray[np.intp]:
    """The leaf that each row reaches in each tree, shape (trees, rows)."""
    rows = np.arange(len(matrix))
    has_missing = bool(np.isnan(matrix).any())
    at = np.repeat(nodes.roots[:, np.newaxis], len(matrix), axis=1)
    for _ in range(nodes.depth):
        cells = matrix[rows, nodes.feature[at]]
        goes_left = cells <= nodes.threshold[at]
        if has_missing:
            goes_left |= np.isnan(cells) & nodes.missing_goes_left[at]
        at = np.where(goes_left, nodes.left[at], nodes.right[at])
    return at


class BoostedTreesScorer:
    """Boosted trees: the compiled trees score small batches, scikit-learn's C code scores large ones.

    Both add the same values in the same order. Loading components checks that they agree to the last bit.
    """

    scored_by = "compiled trees; large batches by scikit-learn"

    def __init__(self, compiled: TreeEnsembleScorer, estimator: Any) -> None:
        self.compiled = compiled
        nameless = copy.copy(estimator)  # does not warn that a matrix has no column names
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
    """A scorer that equals ``estimator.predict_proba``; None if the estimator is not supported.

    Supported are HistGradientBoostingClassifier without categorical features, DecisionTreeClassifier, RandomForestClassifier
    and ExtraTreesClassifier.
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
    """Probabilities of shape (rows, classes) for scores of that shape."""
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _compile_boosted(estimator: Any) -> TreeEnsembleScorer:
    nodes = [tree.nodes for trees in estimator._predictors for tree in trees]  # noqa: SLF001 - there is no public access
    trees = [
        _Tree(
            feature=fields["feature_idx"],
            threshold=fields["num_threshold"],
            left=fields["left"],
            right=fields["right"],
            missing_goes_left=fields["missing_go_to_left"],
            is_leaf=fields["is_leaf"].astype(bool),
            values=fields["value"][:, np.newaxis],
        )
        for fields in nodes
    ]
    baseline = np.ravel(estimator._baseline_prediction).astype(np.float64)  # noqa: SLF001
    return TreeEnsembleScorer(_join(trees), baseline, _positive if len(baseline) == 1 else softmax, is_single=False)


def _compile_forest(estimators: Sequence[Any]) -> TreeEnsembleScorer:
    states = [estimator.tree_.__getstate__() for estimator in estimators]
    trees = [
        _Tree(
            feature=state["nodes"]["feature"],
            threshold=state["nodes"]["threshold"],
            left=state["nodes"]["left_child"],
            right=state["nodes"]["right_child"],
            missing_goes_left=state["nodes"]["missing_go_to_left"],
            is_leaf=state["nodes"]["left_child"] < 0,
            values=state["values"][:, 0, :],
        )
        for state in states
    ]
    count = float(len(trees))
    classes = len(estimators[0].classes_)
    return TreeEnsembleScorer(_join(trees), np.zeros(classes), lambda sums: sums / count, is_single=True)


def _positive(sums: Array) -> Array:
    positive = expit(sums[:, 0])
    return np.column_stack([1.0 - positive, positive])


def _join(trees: Sequence[_Tree]) -> _Nodes:
    """All trees in one array of nodes; the numbers of a tree's nodes are shifted to their new places."""
    sizes = [len(tree.feature) for tree in trees]
    roots = np.cumsum([0, *sizes[:-1]]).astype(np.intp)
    is_leaf = np.concatenate([tree.is_leaf for tree in trees])
    return _Nodes(
        feature=np.where(is_leaf, 0, np.concatenate([tree.feature for tree in trees])).astype(np.intp),
        threshold=np.where(is_leaf, np.inf, np.concatenate([tree.threshold for tree in trees])),
        left=np.concatenate([_next(tree, tree.left, root) for tree, root in zip(trees, roots, strict=True)]),
        right=np.concatenate([_next(tree, tree.right, root) for tree, root in zip(trees, roots, strict=True)]),
        missing_goes_left=np.concatenate([tree.missing_goes_left for tree in trees]).astype(bool),
        values=np.concatenate([tree.values for tree in trees]).astype(np.float64),
        roots=roots,
        depth=max(map(_depth, trees)),
    )


def _next(tree: _Tree, children: NDArray[Any], root: np.intp) -> NDArray[np.intp]:
    """Where one step leads from each node of a tree whose root is at ``root``; a leaf leads to itself."""
    return root + np.where(tree.is_leaf, np.arange(len(tree.is_leaf)), children).astype(np.intp)


def _depth(tree: _Tree) -> int:
    """The number of steps from the root to the deepest leaf."""
    steps = 0
    level = np.array([0])
    while not tree.is_leaf[level].all():
        inner = level[~tree.is_leaf[level]]
        level = np.concatenate([tree.left[inner], tree.right[inner]])
        steps += 1
    return steps

"""Prints the README's table of AUCs: our methods and scikit-learn's own estimators on three data sets of scikit-learn.

    python scripts/make_tables.py [breast_cancer wine digits]

Each data set is written as a CSV file, as in the README's example, and `train` fits a model to it. The AUC is measured on the
rows that `train` held back. scikit-learn's estimators are fitted and measured on the same rows.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from serve_app.training.methods import Method
from serve_app.training.results import TrainingReport
from serve_app.training.train import train

SEED = 26  # the default of the command line
NAMES = ("breast_cancer", "wine", "digits")
HEADER = """\
| table | rows, columns, classes | `two-stage` | `logit` | LogisticRegression | `trees` | HistGradientBoosting |
|---|---|---:|---:|---:|---:|---:|"""


def line(name: str) -> str:
    """The table's row for one data set."""
    bunch = getattr(datasets, f"load_{name}")(as_frame=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{name}.csv")
        bunch.frame.to_csv(path, index=False)
        two_stage, logit, trees = (_train(path, method) for method in ("two-stage", "logit", "trees"))
    figures = [
        two_stage.held_back.auc,
        logit.held_back.auc,
        _auc(make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)), bunch, logit),
        trees.held_back.auc,
        _auc(HistGradientBoostingClassifier(random_state=SEED), bunch, trees),
    ]
    shape = f"{len(bunch.data):,}, {bunch.data.shape[1]}, {len(bunch.target_names)}"
    return f"| {name.replace('_', ' ')} | {shape} | {' | '.join(f'{figure:.4f}' for figure in figures)} |"


def _train(path: Path, method: Method) -> TrainingReport:
    _, report = train(path, target="target", method=method, seed=SEED)
    return report


def _auc(estimator: Any, bunch: Any, report: TrainingReport) -> float:
    data, target = bunch.data.to_numpy(), bunch.target.to_numpy()
    fitted, held_back = report.evidence.fitted, report.evidence.held_back
    probabilities = estimator.fit(data[fitted], target[fitted]).predict_proba(data[held_back])
    if probabilities.shape[1] == 2:
        return float(roc_auc_score(target[held_back], probabilities[:, 1]))
    return float(roc_auc_score(target[held_back], probabilities, multi_class="ovr"))


def main() -> None:
    """Prints the table for the data sets named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES)
    sys.stdout.write(f"{HEADER}\n")
    for name in parser.parse_args().names:
        sys.stdout.write(f"{line(name)}\n")


if __name__ == "__main__":
    main()

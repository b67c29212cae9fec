"""What commands print: the console, and the sentences and tables that they share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from serve_app.components.compiled import Components
    from serve_app.components.manifest import Manifest
    from serve_app.operations.release import Release
    from serve_app.operations.run import Service
    from serve_app.training.results import TrainingReport

__all__ = ["announce_components", "announce_release", "announce_service", "console", "print_columns", "print_training"]

console = Console(highlight=False, soft_wrap=True)
_FIGURES = ("AUC", "log loss", "accuracy")
_SHOWN_LEVELS = 5


def print_columns(manifest: Manifest, left_out: Mapping[str, str]) -> None:
    """A table of the columns: their kinds and levels, and the reason why a column was left out."""
    kinds = Table("column", "kind", "")
    used = set(manifest.selected_features)
    for column in manifest.schema.columns:
        more = len(column.levels) - _SHOWN_LEVELS
        shown = ", ".join(column.levels[:_SHOWN_LEVELS]) + (f" and {more} more" if more > 0 else "")
        kinds.add_row(escape(column.name), column.kind, escape(shown) if column.name in used else "not used by the model")
    for name, reason in left_out.items():
        kinds.add_row(escape(name), "left out", escape(reason))
    console.print(kinds)


def announce_components(folder: Path, components: Components) -> None:
    """Says that components are sound, and what was verified."""
    manifest = components.manifest
    files = "1 file matches its digest" if len(manifest.files) == 1 else f"{len(manifest.files)} files match their digests"
    console.print(
        f"{folder}: {manifest.name} {manifest.version} is sound: {files}, "
        f"{len(manifest.golden)} golden rows their probabilities (manifest {components.digest[:12]})"
    )


def print_training(manifest: Manifest, report: TrainingReport) -> None:
    """The tables, the verdict and the warnings of a training."""
    print_columns(manifest, report.left_out)
    if report.rows_without_target:
        console.print(f"{report.rows_without_target:,} rows are left out: {escape(manifest.target)} is missing in them.")
    for method, found in report.candidates.items():
        chosen = ", chosen" if method == report.method else ""
        console.print(f"{method}: log loss {found.log_loss.mean:.4f} in {found.folds} folds{chosen}")
    _print_figures(report, is_binary=len(manifest.classes) == 2)
    if report.coefficients:
        coefficients = Table("feature", "coefficient", *(["standard error"] if report.standard_errors else []))
        for feature, coefficient in report.coefficients.items():
            error = [f"{report.standard_errors[feature]:.4f}"] if report.standard_errors else []
            coefficients.add_row(escape(feature), f"{coefficient:+.4f}", *error)
        console.print(coefficients)
    for column, auc in report.leaks.items():
        question = f"was it known before {escape(manifest.target)} was?"
        console.print(f"[bold]Warning:[/bold] {escape(column)} alone gives an AUC of {auc:.4f}: {question}")
    if len(manifest.classes) == 2:
        console.print(f"A row is classified as {manifest.classes[1]} from a probability of {manifest.threshold:.4f}.")
    console.print(f"[bold]{escape(report.verdict.sentence)}[/bold]")
    for warning in report.verdict.warnings:
        console.print(f"[bold]Warning:[/bold] {escape(warning)}")


def _print_figures(report: TrainingReport, *, is_binary: bool) -> None:
    headers = ("PR-AUC", "Brier score", *(["positive", "mean probability"] if is_binary else []))
    figures = Table("rows", "count", *_FIGURES, *headers)
    for part, title in ((report.train, "training"), (report.held_back, "validation")):
        shares = [f"{part.positive_share:.2%}", f"{part.mean_probability:.2%}"] if is_binary else []
        found = (part.auc, part.log_loss, part.accuracy, part.pr_auc, part.brier)
        figures.add_row(title, f"{part.rows:,}", *(f"{figure:.4f}" for figure in found), *shares)
    folds = report.cross_validation
    if folds is not None:
        spreads = (f"{spread.mean:.4f} ± {spread.deviation:.4f}" for spread in (folds.auc, folds.log_loss, folds.accuracy))
        figures.add_row(f"{folds.folds}-fold", "", *spreads)
    majority = (report.held_back.majority_log_loss, report.held_back.majority_accuracy)
    figures.add_row("class shares alone", "", "", *(f"{figure:.4f}" for figure in majority))
    console.print(figures)


def announce_service(service: Service) -> None:
    """Warnings and notes, and then the addresses of a service that has just started."""
    for warning in service.warnings:
        console.print(warning, style="bold red")
    for note in service.notes:
        console.print(note)
    console.print(f"Serving on {service.url} (documentation: {service.url}/docs)")
    console.print(f"Try:        curl -s {service.url}/predict -d @data/reference/example.json")
    console.print(f"Dashboard:  {service.dashboard_url}/#/serve (its token: .venv/bin/ray get-auth-token)")
    console.print(f"Ray:        {service.ray_address} (for 'deploy --address' from another machine of the cluster)")
    console.print("Press Ctrl-C to stop it.")


def announce_release(release: Release) -> None:
    """The version that serves now, its trials, and the number of replicas that use it."""
    serving = release.rollout.serving
    replicas = " and ".join(f"{count} {name}" for name, count in release.replicas.items())
    console.print(f"{serving.name} {serving.version} serves (manifest {serving.digest[:12]}): {replicas}")
    for role, trial in (("canary", release.rollout.canary), ("shadow", release.rollout.shadow)):
        if trial is not None:
            console.print(f"{trial.name} {trial.version} is its {role}, with {trial.share:.0%} of the requests")
    if release.schema_changes:
        console.print("Clients must send other rows:", *release.schema_changes, sep="\n  ", markup=False)

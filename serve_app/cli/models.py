"""Commands about models: train, import, publish-reference, check, sign."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from serve_app.cli.options import PATH, Finite, components_option, out_option, seed_option, unknown_option
from serve_app.cli.printing import announce_components, console, print_columns, print_training

if TYPE_CHECKING:
    from serve_app.scoring.schema import UnknownPolicy
    from serve_app.training.methods import Calibration, Method
    from serve_app.training.threshold import ThresholdRule

__all__ = ["COMMANDS"]


@click.command()
@click.argument("table", type=PATH)
@click.option("--target", required=True, help="Column to predict.")
@click.option(
    "--method",
    type=click.Choice(["auto", "logit", "trees", "two-stage"]),
    default="auto",
    show_default=True,
    help="logit: logistic regression with an L2 penalty. trees: gradient-boosted trees. auto: whichever of these two has the "
    "lower cross-validated log loss. two-stage: the exercise's recipe, two logits without an intercept, for balanced classes.",
)
@click.option("--positive", metavar="CLASS", help="The positive one of two classes (default: the last in order).")
@click.option("--calibrate", type=click.Choice(["isotonic", "sigmoid"]), help="Calibrate probabilities by cross-validation.")
@click.option("--null", "nulls", multiple=True, metavar="TOKEN", help="Another string for a missing value; can be repeated.")
@click.option("--separator", help="Separator of a CSV file: one character, or tab (default: detected).")
@click.option("--encoding", help="Encoding of a CSV file, such as latin-1 (default: by its byte order mark, or UTF-8).")
@click.option("--columns", type=PATH, help="YAML file that corrects the inferred kinds of columns.")
@click.option("--name", help="Name of the model (default: from the table's file name).")
@click.option("--model-version", default="1.0.0", show_default=True)
@click.option("--threshold", type=Finite(0, 1), default=0.5, show_default=True)
@click.option(
    "--top-share", type=Finite(0, 1, min_open=True, max_open=True), help="Choose the threshold that makes this share positive."
)
@click.option(
    "--costs",
    type=(Finite(), Finite()),
    metavar="FP FN",
    help="Choose the threshold with the least cost of false positives and negatives.",
)
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True, help="Folds of the cross-validation.")
@click.option("--report", type=PATH, help="HTML file to write.  [default: OUT-report.html]")
@unknown_option
@seed_option
@out_option
def train(  # noqa: PLR0913, PLR0917 - click passes options as arguments
    table: Path,
    target: str,
    method: Method | Literal["auto"],
    positive: str | None,
    calibrate: Calibration | None,
    nulls: tuple[str, ...],
    separator: str | None,
    encoding: str | None,
    columns: Path | None,
    name: str | None,
    model_version: str,
    threshold: float,
    top_share: float | None,
    costs: tuple[float, float] | None,
    folds: int,
    report: Path | None,
    unknown_category: UnknownPolicy,
    seed: int,
    out: Path,
) -> None:
    """Fit a model to a table (CSV, Parquet, JSON, JSON lines) and write its components and a report."""
    from serve_app.components.saving import save_components
    from serve_app.training.column_kinds import read_corrections
    from serve_app.training.csv_tables import CsvOptions
    from serve_app.training.report import write_report
    from serve_app.training.train import train as fit

    corrections = {} if columns is None else read_corrections(columns)
    with console.status("Training ..."):
        draft, found = fit(
            table,
            target=target,
            method=method,
            positive=positive,
            calibration=calibrate,
            null_tokens=nulls,
            csv=CsvOptions(separator, encoding),
            name=name,
            version=model_version,
            threshold=_threshold_rule(threshold, top_share, costs),
            unknown=unknown_category,
            corrections=corrections,
            folds=folds,
            seed=seed,
        )
        components = save_components(out, draft)
        page = report or out.resolve().with_name(f"{out.resolve().name}-report.html")
        note = write_report(page, components.manifest, found)
    print_training(components.manifest, found)
    console.print(note)
    announce_components(out, components)


@click.command("import")
@click.argument("pickle", type=PATH)
@click.option("--sample", type=PATH, required=True, help="Table of rows that the model was fitted on.")
@click.option("--target", required=True, help="Column that the model predicts.")
@click.option("--name", help="Name of the model (default: from the pickle's file name).")
@click.option("--model-version", default="1.0.0", show_default=True)
@click.option("--threshold", type=Finite(0, 1), default=0.5, show_default=True)
@click.option("--trust", is_flag=True, help="Confirm that you know who made the pickle: reading it runs code.")
@out_option
def import_model(  # noqa: PLR0913, PLR0917 - click passes options as arguments
    pickle: Path,
    sample: Path,
    target: str,
    name: str | None,
    model_version: str,
    threshold: float,
    trust: bool,
    out: Path,
) -> None:
    """Write the components of your own fitted scikit-learn classifier or Pipeline, pickled by joblib or pickle."""
    from serve_app.components.saving import save_components
    from serve_app.training.import_estimator import import_estimator

    if not trust:
        raise click.UsageError("reading a pickle runs code; if you know who made it, add --trust")
    with console.status("Importing ..."):
        draft = import_estimator(pickle, sample, target=target, name=name, version=model_version, threshold=threshold)
        components = save_components(out, draft)
    print_columns(components.manifest, {})
    announce_components(out, components)


@click.command("publish-reference")
@unknown_option
@click.option("--out", type=PATH, default=Path("model_components"), show_default=True, help="Folder to write components to.")
def publish_reference(unknown_category: UnknownPolicy, out: Path) -> None:
    """Write the exercise's published model as components, without training."""
    from serve_app.components.saving import save_components
    from serve_app.exercise.published_model import draft_reference, load_published_model

    components = save_components(out, draft_reference(load_published_model(), unknown_category))
    announce_components(out, components)


@click.command()
@click.argument("folder", type=PATH, required=False)
@components_option
def check(folder: Path | None, components: Path) -> None:
    """Verify model components: digests, library versions, golden rows."""
    from serve_app.components.loading import load_components

    announce_components(folder or components, load_components(folder or components))


@click.command()
@click.argument("folder", type=PATH)
@click.option("--key", type=PATH, required=True, help="Ed25519 private key, PEM; openssl genpkey -algorithm ed25519 makes one.")
def sign(folder: Path, key: Path) -> None:
    """Sign model components for services whose config names the public key."""
    from serve_app.components.loading import load_components
    from serve_app.components.manifest import MANIFEST
    from serve_app.components.signature import sign_manifest

    components = load_components(folder)
    console.print(f"{sign_manifest(folder / MANIFEST, key)}: signed manifest {components.digest}")


def _threshold_rule(threshold: float, top_share: float | None, costs: tuple[float, float] | None) -> ThresholdRule:
    from serve_app.training.threshold import ThresholdRule

    if top_share is not None and costs is not None:
        raise click.UsageError("--top-share and --costs are two rules; choose one")
    try:
        if top_share is not None:
            return ThresholdRule("top_share", top_share=top_share)
        if costs is not None:
            return ThresholdRule("cost", false_positive=costs[0], false_negative=costs[1])
        return ThresholdRule(threshold=threshold)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


COMMANDS = (train, import_model, publish_reference, check, sign)

"""The command line: ``python -m serve_app <command>``.

Owns options, tables, progress bars and exit codes; each command calls one function of a module below. An error that this
package raises on purpose becomes one line on standard error and exit code 1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from serve_app.config import PROJECT_ROOT
from serve_app.errors import ServeAppError, SettingsError, TableError

__all__ = ["main"]

_console = Console(highlight=False, soft_wrap=True)
_PATH = click.Path(path_type=Path)
_FIGURES = {"auc": "AUC", "log_loss": "log loss", "accuracy": "accuracy"}

_components_option = click.option(
    "--components",
    type=_PATH,
    default=Path("model_components"),
    show_default=True,
    help="Folder of model components.",
)
# Without a default: what stands at hand is the model that is served, and writing replaces it.
_out_option = click.option("--out", type=_PATH, required=True, help="Folder to write components to; what is there is replaced.")
_unknown_option = click.option(
    "--unknown-category",
    type=click.Choice(["as_null", "reject"]),
    default="as_null",
    show_default=True,
    help="What a category does that the training table does not have: count as missing, or refuse the row.",
)
_config_option = click.option(
    "--config",
    type=_PATH,
    default=PROJECT_ROOT / "config" / "serve_config.yaml",
    show_default="config/serve_config.yaml",
    help="Ray Serve config file.",
)
_host_option = click.option(
    "--host", envvar="SERVE_APP_HOST", show_envvar=True, help="What HTTP listens on, in the place of the config's."
)
_env_file_option = click.option(
    "--env-file",
    type=_PATH,
    default=PROJECT_ROOT / "config" / "serve.env",
    show_default="config/serve.env",
    help="Environment of Ray, as KEY=VALUE lines; a variable that is set already keeps its value.",
)
_drain_option = click.option(
    "--drain-timeout",
    type=click.FloatRange(min=0),
    default=30.0,
    show_default=True,
    help="Seconds that what is in flight may take at the end.",
)
_address_option = click.option(
    "--address", default="auto", show_default=True, help="Of the Ray cluster; auto is the one that runs on this machine."
)
_seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=26, show_default=True, help="Of everything random."
)


class _Commands(click.Group):
    """Says what a ServeAppError says, or which file cannot be read or written, without a stack trace."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ServeAppError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            raise click.ClickException(f"{error.filename}: {error.strerror}") from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Scores tabular rows with a fitted classifier, on Ray Serve."""


@main.command()
@_config_option
@_env_file_option
@click.option("--components", type=_PATH, help="Folder of model components, in the place of the config's.")
@_host_option
@click.option(
    "--keys",
    type=_PATH,
    envvar="SERVE_APP_KEYS",
    show_envvar=True,
    help="File of API keys, in the place of the config's; without any, everybody who reaches the port may ask.",
)
@click.option("--min-replicas", type=click.IntRange(min=1), help="Of each deployment, in the place of the config's.")
@click.option("--max-replicas", type=click.IntRange(min=1), help="Of each deployment, in the place of the config's.")
@click.option(
    "--metrics-port", type=click.IntRange(1, 65535), help="Port of Ray's metrics, for Prometheus; any free one by default."
)
@click.option(
    "--cluster", is_flag=True, help="Be the head of a cluster, to which workers come by 'join'; replicas run on those."
)
@click.option("--node-host", help="This machine's name in the network that the nodes of the cluster share.")
@_drain_option
def run(  # noqa: PLR0913, PLR0917 - click passes options as arguments
    config: Path,
    env_file: Path,
    components: Path | None,
    host: str | None,
    keys: Path | None,
    min_replicas: int | None,
    max_replicas: int | None,
    metrics_port: int | None,
    cluster: bool,
    node_host: str | None,
    drain_timeout: float,
) -> None:
    """Serve in the foreground until Ctrl-C."""
    from serve_app.operations.ray_processes import start_alone, start_head
    from serve_app.operations.run import Overrides, run_service

    def start_ray() -> str:
        return start_head(node_host, metrics_port) if cluster else start_alone(metrics_port)

    _console.print("Starting Ray and Ray Serve ...")
    overrides = Overrides(components, host, min_replicas, max_replicas, keys)
    run_service(
        config, env_file, _announce_service, overrides, start_ray=start_ray, is_cluster=cluster, drain_timeout_s=drain_timeout
    )
    _console.print("Stopped.")


@main.command("join")
@click.argument("head")
@_env_file_option
@click.option("--num-cpus", type=click.IntRange(min=1), help="For replicas; all that this machine has when left out.")
@_drain_option
def join_cluster(head: str, env_file: Path, num_cpus: int | None, drain_timeout: float) -> None:
    """Be a worker of the cluster whose head runs on the machine HEAD, until Ctrl-C."""
    from serve_app.operations.ray_processes import join

    _console.print(f"Waiting for {head} ...")
    join(head, env_file, num_cpus, drain_timeout, lambda address: _console.print(f"Joined {head} as {address}."))
    _console.print("Stopped.")


@main.command()
@_config_option
@_host_option
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=8.0, show_default=True, help="Seconds for the answer."
)
def ready(config: Path, host: str | None, timeout: float) -> None:
    """Ask the service on this machine whether it is ready; exit code 1 when it is not. For health checks of containers."""
    from serve_app.operations.ready import ask_ready

    _console.print(f"{ask_ready(config, host, timeout)}: ready")


@main.command()
@click.argument("components", type=_PATH)
@click.option("--canary", type=click.FloatRange(0, 1), help="Share of the requests that the version answers, on trial.")
@click.option("--shadow", type=click.FloatRange(0, 1), help="Share of the requests that it gets a copy of, on trial.")
@_address_option
def deploy(components: Path, canary: float | None, shadow: float | None, address: str) -> None:
    """Have the running service switch to other COMPONENTS, without a pause; they are verified first."""
    from serve_app.operations.release import deploy as release

    if canary is not None and shadow is not None:
        raise click.UsageError("--canary and --shadow are two trials; begin one after the other")
    with _console.status("Verifying, loading, switching ..."):
        _announce_release(release(components, canary=canary, shadow=shadow, address=address))


@main.command()
@_address_option
def rollback(address: str) -> None:
    """Take back the latest deploy: end a trial, or serve the previous version again."""
    from serve_app.operations.release import roll_back

    with _console.status("Switching ..."):
        _announce_release(roll_back(address=address))


@main.command()
@click.option("--out", type=_PATH, default=Path("data"), show_default=True, help="Folder to write to.")
@click.option("--train-rows", type=click.IntRange(min=1), default=40_000, show_default=True)
@click.option("--test-rows", type=click.IntRange(min=1), default=10_000, show_default=True)
@_seed_option
@_components_option
def generate(out: Path, train_rows: int, test_rows: int, seed: int, components: Path) -> None:
    """Write a stand-in for the exercise's data: train.csv, test.json, and what the components answer to the latter."""
    from serve_app.components.loading import load_components
    from serve_app.exercise.stand_in_data import generate as write_stand_in

    loaded = load_components(components)

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=_console) as progress:
        task = progress.add_task("rows", total=train_rows + test_rows)
        stand_in = write_stand_in(
            out,
            seed=seed,
            train_rows=train_rows,
            test_rows=test_rows,
            advance=lambda rows: progress.advance(task, rows),
        )
    _console.print(f"{out / 'train.csv'} and {out / 'test.json'}: {stand_in.positive_share:.2%} positive")
    _write_expectations(stand_in.test, out / "expected.json", loaded)


@main.command()
@click.argument("rows", type=_PATH, default=Path("data", "test.json"))
@click.option("--out", type=_PATH, help="File to write.  [default: expected.json beside the rows]")
@_components_option
def expect(rows: Path, out: Path | None, components: Path) -> None:
    """Write what the components answer to a JSON file of rows (data/test.json), for load tests to compare with."""
    from serve_app.components.loading import load_components

    _write_expectations(rows, out or rows.with_name("expected.json"), load_components(components))


@main.command()
@click.argument("table", type=_PATH)
@click.option("--target", required=True, help="The column to predict.")
@click.option(
    "--method",
    type=click.Choice(["two-stage", "logit", "trees"]),
    default="two-stage",
    show_default=True,
    help="The exercise's two-stage logit, a logit with an L2 penalty, or gradient-boosted trees.",
)
@click.option("--columns", type=_PATH, help="YAML file that says what columns are, where the rules are wrong.")
@click.option("--name", help="Of the model; the table's file name when left out.")
@click.option("--model-version", default="1.0.0", show_default=True)
@click.option("--threshold", type=click.FloatRange(0, 1), default=0.5, show_default=True)
@click.option("--top-share", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Threshold by share of positives.")
@click.option("--costs", type=(float, float), metavar="FP FN", help="Threshold by least cost of false positives and negatives.")
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True, help="Of the cross-validation.")
@click.option("--report", type=_PATH, help="HTML file to write.  [default: OUT-report.html]")
@_unknown_option
@_seed_option
@_out_option
def train(  # noqa: PLR0913, PLR0917 - click passes options as arguments
    table: Path,
    target: str,
    method: Any,
    columns: Path | None,
    name: str | None,
    model_version: str,
    threshold: float,
    top_share: float | None,
    costs: tuple[float, float] | None,
    folds: int,
    report: Path | None,
    unknown_category: Any,
    seed: int,
    out: Path,
) -> None:
    """Fit a model to a table (CSV, Parquet, JSON, JSON lines) and write its components and a report."""
    from serve_app.components.loading import save_components
    from serve_app.training.report import write_report
    from serve_app.training.tables import read_corrections
    from serve_app.training.train import train as fit

    corrections = {} if columns is None else read_corrections(columns)
    with _console.status("Training ..."):
        draft, found = fit(
            table,
            target=target,
            method=method,
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
    _print_training(components.manifest, found)
    _console.print(note)
    _announce_components(out, components)


@main.command("import")
@click.argument("pickle", type=_PATH)
@click.option("--sample", type=_PATH, required=True, help="Table of rows that it was fitted on.")
@click.option("--target", required=True, help="The column that it predicts.")
@click.option("--name", help="Of the model; the pickle's file name when left out.")
@click.option("--model-version", default="1.0.0", show_default=True)
@click.option("--threshold", type=click.FloatRange(0, 1), default=0.5, show_default=True)
@click.option("--trust", is_flag=True, help="You know who made the pickle: reading it runs what it says.")
@_out_option
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
    """Write components of a fitted scikit-learn classifier or Pipeline of your own, pickled by joblib or pickle."""
    from serve_app.components.loading import save_components
    from serve_app.training.import_estimator import import_estimator

    if not trust:
        raise click.UsageError("unpickling runs what the file says; if you know who made it, say --trust")
    with _console.status("Importing ..."):
        draft = import_estimator(pickle, sample, target=target, name=name, version=model_version, threshold=threshold)
        components = save_components(out, draft)
    _print_columns(components.manifest, {})
    _announce_components(out, components)


@main.command()
@click.argument("source", metavar="INPUT")
@click.option("--output", required=True, help="Folder to write answers to, or to go on with.")
@click.option(
    "--format", "form", type=click.Choice(["parquet", "csv", "jsonl"]), default="parquet", show_default=True, help="Of answers."
)
@click.option(
    "--keep", multiple=True, metavar="COLUMN", help="Of the input, to be repeated in the answers; may be given often."
)
@click.option("--address", envvar="RAY_ADDRESS", help="Of a Ray cluster; without it this machine alone works.")
@_components_option
def score(  # noqa: PLR0913, PLR0917 - click passes options as arguments
    source: str, output: str, form: Any, keep: tuple[str, ...], address: str | None, components: Path
) -> None:
    """Score a file, or all files of a folder: CSV, Parquet, JSON lines; as the service would, to the last bit."""
    from serve_app.offline.score_files import PieceResult, ray_for_files, score_files

    columns = (
        TextColumn("{task.fields[rows]} rows"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pieces"),
        TimeElapsedColumn(),
    )
    with _needs_data_packages(), ray_for_files(address), Progress(*columns, console=_console) as progress:
        task = progress.add_task("", total=None, rows="0")
        rows = 0
        start = perf_counter()

        def advance(result: PieceResult, pieces: int) -> None:
            nonlocal rows
            rows += result.rows
            progress.update(task, advance=1, total=pieces, rows=f"{rows:,}")

        totals = score_files(source, output, components, form=form, keep=keep, advance=advance)
        seconds = perf_counter() - start
    resumed = f"; {totals.resumed} of {totals.pieces} pieces were done before" if totals.resumed else ""
    _console.print(f"{output}: {totals.rows:,} rows in = {totals.scored:,} scored + {totals.refused:,} refused{resumed}")
    if not totals.resumed:
        _console.print(f"{seconds:.1f} s, {totals.rows / seconds:,.0f} rows/s")
    if totals.refused:
        _console.print(f"{output}/_refused says why")


@main.command()
@click.argument("source", metavar="FILE")
@click.option("--out", type=_PATH, default=Path("drift.html"), show_default=True, help="Page to write.")
@_components_option
def drift(source: str, out: Path, components: Path) -> None:
    """Compare the rows of a file (CSV, Parquet, JSON lines) with those that trained the model."""
    from serve_app.components.loading import load_components
    from serve_app.offline.score_files import count_files
    from serve_app.scoring.drift import compare
    from serve_app.training.report import write_drift_report

    loaded = load_components(components)
    with _needs_data_packages(), _console.status("Counting ..."):
        counts, refused = count_files(source, loaded)
    if not counts.rows or not loaded.manifest.distribution:
        raise TableError(f"{source}: none of {refused:,} rows can be scored")
    found = compare(loaded.manifest.distribution, counts)
    table = Table("column", "PSI", "", "missing", "in training")
    table.add_row("(score)", f"{found['score']['psi']:.4f}", found["score"]["verdict"], "", "")
    for name, one in sorted(found["columns"].items(), key=lambda item: -item[1]["psi"]):
        table.add_row(
            escape(name), f"{one['psi']:.4f}", one["verdict"], f"{one['missing']:.2%}", f"{one['missing_in_training']:.2%}"
        )
    _console.print(table)
    _console.print(f"{counts.rows:,} rows{f', and {refused:,} more that are refused' if refused else ''}")
    _console.print(write_drift_report(out, loaded.manifest, found))


@main.command("publish-reference")
@_unknown_option
@click.option("--out", type=_PATH, default=Path("model_components"), show_default=True, help="Folder to write components to.")
def publish_reference(unknown_category: Any, out: Path) -> None:
    """Write the exercise's published model as components, without training."""
    from serve_app.components.loading import save_components
    from serve_app.exercise.published_model import draft_reference, load_published_model

    components = save_components(out, draft_reference(load_published_model(), unknown_category))
    _announce_components(out, components)


@main.command()
@click.argument("folder", type=_PATH, required=False)
@_components_option
def check(folder: Path | None, components: Path) -> None:
    """Verify model components: digests, library versions, golden rows."""
    from serve_app.components.loading import load_components

    _announce_components(folder or components, load_components(folder or components))


@main.command()
@click.argument("folder", type=_PATH)
@click.option("--key", type=_PATH, required=True, help="Ed25519 private key, PEM: openssl genpkey -algorithm ed25519")
def sign(folder: Path, key: Path) -> None:
    """Sign model components, for services whose config names the public key."""
    from serve_app.components.loading import MANIFEST, load_components
    from serve_app.components.signature import sign_manifest

    components = load_components(folder)
    _console.print(f"{sign_manifest(folder / MANIFEST, key)}: signed manifest {components.digest}")


@main.group("keys")
def keys_group() -> None:
    """Make, list and revoke API keys; a service that runs notices within a second."""


_keys_file_option = click.option(
    "--file", "path", type=_PATH, default=Path("config", "keys.json"), show_default=True, help="File of API keys."
)


@keys_group.command("make")
@click.argument("name")
@_keys_file_option
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(["predict", "model"]),
    multiple=True,
    default=("predict", "model"),
    show_default=True,
    help="What the key is for; may be given twice.",
)
@click.option("--expires-in-days", type=click.FloatRange(min=0, min_open=True), help="Never, when left out.")
@click.option("--requests-per-s", type=click.FloatRange(min=0, min_open=True), help="In the place of the config's.")
@click.option("--requests-at-once", type=click.IntRange(min=1), help="In the place of the config's.")
def make(  # noqa: PLR0913, PLR0917 - click passes options as arguments
    name: str,
    path: Path,
    scopes: tuple[Any, ...],
    expires_in_days: float | None,
    requests_per_s: float | None,
    requests_at_once: int | None,
) -> None:
    """Make a key for NAME and print it; the file holds its SHA-256 only, so this is the one time it can be seen."""
    from serve_app.api.keyring import make_key

    key = make_key(
        path,
        name,
        scopes,
        expires_in=None if expires_in_days is None else timedelta(days=expires_in_days),
        requests_per_s=requests_per_s,
        requests_at_once=requests_at_once,
    )
    click.echo(key)
    click.echo(f"{path} holds its SHA-256. It is shown this once: keep it.", err=True)


@keys_group.command("list")
@_keys_file_option
def list_keys(path: Path) -> None:
    """List the keys of the file."""
    from serve_app.api.keyring import read_keys

    table = Table("id", "name", "for", "made", "expires", "requests/s", "at once")
    for key in read_keys(path):
        expires = "never" if key.expires is None else f"{key.expires:%Y-%m-%d %H:%M}"
        limits = (str(limit or "") for limit in (key.requests_per_s, key.requests_at_once))
        table.add_row(key.id, key.name, ", ".join(key.scopes), f"{key.created:%Y-%m-%d %H:%M}", expires, *limits)
    _console.print(table)


@keys_group.command("revoke")
@click.argument("identifier", metavar="ID")
@_keys_file_option
def revoke(identifier: str, path: Path) -> None:
    """Take the key ID out of the file: it stands in the key itself, cp_ID_..., and in the list."""
    from serve_app.api.keyring import revoke_key

    key = revoke_key(path, identifier)
    _console.print(f"{key.id} ({key.name}) is revoked.")


def _announce_release(release: Any) -> None:
    serving = release.rollout["serving"]
    replicas = " and ".join(f"{count} {name}" for name, count in release.replicas.items())
    _console.print(f"{serving['name']} {serving['version']} serves (manifest {serving['digest'][:12]}): {replicas}")
    for role in ("canary", "shadow"):
        trial = release.rollout[role]
        if trial:
            _console.print(f"{trial['name']} {trial['version']} is its {role}, with {trial['share']:.0%} of the requests")


def _announce_service(service: Any) -> None:
    for warning in service.warnings:
        _console.print(warning, style="bold red")
    for note in service.notes:
        _console.print(note)
    _console.print(f"Serving on {service.url} (documentation: {service.url}/docs)")
    _console.print(f"Try:        curl -s {service.url}/predict -d @data/reference/example.json")
    _console.print(f"Dashboard:  {service.dashboard_url}/#/serve (it asks for what .venv/bin/ray get-auth-token prints)")
    _console.print(f"Ray:        {service.ray_address} (what --address means in 'deploy' and 'rollback')")
    _console.print("Ctrl-C stops all of it.")


def _write_expectations(rows: Path, out: Path, components: Any) -> None:
    from serve_app.offline.expected_answers import write_expectations

    written = write_expectations(rows, out, components)
    model = written.model
    _console.print(f"{out}: what {model.name} {model.version} answers to {rows}, {len(written.answers):,} rows")


@contextlib.contextmanager
def _needs_data_packages() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in {"pyarrow", "fsspec"}:
            raise
        raise SettingsError("reading files takes what make install-data installs") from error


def _threshold_rule(threshold: float, top_share: float | None, costs: tuple[float, float] | None) -> Any:
    from serve_app.training.evaluation import ThresholdRule

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


def _count(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _print_columns(manifest: Any, left_out: Any) -> None:
    kinds = Table("column", "kind", "")
    used = set(manifest.selected_features)
    for column in manifest.schema.columns:
        shown = ", ".join(column.levels[:5]) + (f" and {len(column.levels) - 5} more" if len(column.levels) > 5 else "")
        kinds.add_row(escape(column.name), column.kind, escape(shown) if column.name in used else "not used by the model")
    for column, why in left_out.items():
        kinds.add_row(escape(column), "left out", escape(why))
    _console.print(kinds)


def _print_training(manifest: Any, report: Any) -> None:
    _print_columns(manifest, report.left_out)
    figures = Table("rows", "count", *(["positive"] if report.train_positive_share is not None else []), *_FIGURES.values())
    for part, title in (("train", "training"), ("validation", "validation")):
        share = getattr(report, f"{part}_positive_share")
        figures.add_row(
            title,
            f"{getattr(report, f'{part}_rows'):,}",
            *([] if share is None else [f"{share:.2%}"]),
            *(f"{getattr(report, f'{part}_{figure}'):.4f}" for figure in _FIGURES),
        )
    folds = report.cross_validation
    figures.add_row(
        f"{folds.folds}-fold",
        "",
        *([] if report.train_positive_share is None else [""]),
        *(f"{folds.means[figure]:.4f} ± {folds.deviations[figure]:.4f}" for figure in _FIGURES),
    )
    _console.print(figures)
    if report.coefficients:
        coefficients = Table("feature", "coefficient", *(["standard error"] if report.standard_errors else []))
        for feature, coefficient in report.coefficients.items():
            error = [f"{report.standard_errors[feature]:.4f}"] if report.standard_errors else []
            coefficients.add_row(escape(feature), f"{coefficient:+.4f}", *error)
        _console.print(coefficients)
    for column, auc in report.leaks.items():
        question = f"was it known before {escape(manifest.target)} was?"
        _console.print(f"[bold]Warning:[/bold] {escape(column)} alone gives an AUC of {auc:.4f}: {question}")
    if len(manifest.classes) == 2:
        _console.print(f"Counts as {manifest.classes[1]} from a probability of {manifest.threshold:.4f} on.")


def _announce_components(folder: Path, components: Any) -> None:
    manifest = components.manifest
    files = _count(len(manifest.files), "file matches its digest", "files match their digests")
    _console.print(
        f"{folder}: {manifest.name} {manifest.version} is sound: {files}, "
        f"{len(manifest.golden)} golden rows their probabilities (manifest {components.digest[:12]})"
    )

"""Commands about a service: run, join, ready, deploy, rollback."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serve_app.cli.options import (
    PATH,
    address_option,
    config_option,
    console,
    drain_option,
    env_file_option,
    host_option,
)

if TYPE_CHECKING:
    from serve_app.operations.release import Release

__all__ = ["COMMANDS"]


@click.command()
@config_option
@env_file_option
@click.option("--components", type=PATH, help="Folder of model components, in the place of the config's.")
@host_option
@click.option(
    "--keys",
    type=PATH,
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
@drain_option
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

    console.print("Starting Ray and Ray Serve ...")
    overrides = Overrides(components, host, min_replicas, max_replicas, keys)
    run_service(
        config, env_file, _announce_service, overrides, start_ray=start_ray, is_cluster=cluster, drain_timeout_s=drain_timeout
    )
    console.print("Stopped.")


@click.command("join")
@click.argument("head")
@env_file_option
@click.option("--num-cpus", type=click.IntRange(min=1), help="For replicas; all that this machine has when left out.")
@drain_option
def join_cluster(head: str, env_file: Path, num_cpus: int | None, drain_timeout: float) -> None:
    """Be a worker of the cluster whose head runs on the machine HEAD, until Ctrl-C."""
    from serve_app.operations.ray_processes import join

    console.print(f"Waiting for {head} ...")
    join(head, env_file, num_cpus, drain_timeout, lambda address: console.print(f"Joined {head} as {address}."))
    console.print("Stopped.")


@click.command()
@config_option
@host_option
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=8.0, show_default=True, help="Seconds for the answer."
)
def ready(config: Path, host: str | None, timeout: float) -> None:
    """Ask the service on this machine whether it is ready; exit code 1 when it is not. For health checks of containers."""
    from serve_app.operations.ready import ask_ready

    console.print(f"{ask_ready(config, host, timeout)}: ready")


@click.command()
@click.argument("components", type=PATH)
@click.option("--canary", type=click.FloatRange(0, 1), help="Share of the requests that the version answers, on trial.")
@click.option("--shadow", type=click.FloatRange(0, 1), help="Share of the requests that it gets a copy of, on trial.")
@address_option
def deploy(components: Path, canary: float | None, shadow: float | None, address: str) -> None:
    """Have the running service switch to other COMPONENTS, without a pause; they are verified first."""
    from serve_app.operations.release import deploy as release

    if canary is not None and shadow is not None:
        raise click.UsageError("--canary and --shadow are two trials; begin one after the other")
    with console.status("Verifying, loading, switching ..."):
        _announce_release(release(components, canary=canary, shadow=shadow, address=address))


@click.command()
@address_option
def rollback(address: str) -> None:
    """Take back the latest deploy: end a trial, or serve the previous version again."""
    from serve_app.operations.release import roll_back

    with console.status("Switching ..."):
        _announce_release(roll_back(address=address))


def _announce_release(release: Release) -> None:
    serving = release.rollout.serving
    replicas = " and ".join(f"{count} {name}" for name, count in release.replicas.items())
    console.print(f"{serving.name} {serving.version} serves (manifest {serving.digest[:12]}): {replicas}")
    for role, trial in (("canary", release.rollout.canary), ("shadow", release.rollout.shadow)):
        if trial is not None:
            console.print(f"{trial.name} {trial.version} is its {role}, with {trial.share:.0%} of the requests")


def _announce_service(service: Any) -> None:
    for warning in service.warnings:
        console.print(warning, style="bold red")
    for note in service.notes:
        console.print(note)
    console.print(f"Serving on {service.url} (documentation: {service.url}/docs)")
    console.print(f"Try:        curl -s {service.url}/predict -d @data/reference/example.json")
    console.print(f"Dashboard:  {service.dashboard_url}/#/serve (it asks for what .venv/bin/ray get-auth-token prints)")
    console.print(f"Ray:        {service.ray_address} (what --address means in 'deploy' and 'rollback')")
    console.print("Ctrl-C stops all of it.")


COMMANDS = (run, join_cluster, ready, deploy, rollback)

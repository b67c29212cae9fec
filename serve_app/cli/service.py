"""Commands about a service: run, join, ready, deploy, rollback."""

from __future__ import annotations

from pathlib import Path

import click

from serve_app.cli.options import (
    PATH,
    Finite,
    address_option,
    config_option,
    drain_option,
    env_file_option,
    host_option,
    port_option,
)
from serve_app.cli.printing import announce_release, announce_service, console
from serve_app.operations.stop_signals import StopSignals

__all__ = ["COMMANDS"]


@click.command()
@config_option
@env_file_option
@click.option("--components", type=PATH, help="Folder of model components (default: from the config).")
@host_option
@click.option(
    "--keys",
    type=PATH,
    envvar="SERVE_APP_KEYS",
    show_envvar=True,
    help="File of API keys (default: from the config); without keys, everyone who reaches the port can use the service.",
)
@click.option(
    "--min-replicas", type=click.IntRange(min=1), help="Minimum replicas of each deployment (default: from the config)."
)
@click.option(
    "--max-replicas", type=click.IntRange(min=1), help="Maximum replicas of each deployment (default: from the config)."
)
@click.option(
    "--max-replicas-per-node", type=click.IntRange(min=1), help="Maximum replicas of each deployment on one node of a cluster."
)
@click.option(
    "--metrics-port", type=click.IntRange(1, 65535), help="Port of Ray's metrics for Prometheus (default: a free port)."
)
@click.option("--cluster", is_flag=True, help="Be the head of a cluster; replicas run on the workers that 'join' it.")
@click.option("--node-host", help="This machine's name in the network of the cluster (default: chosen by Ray).")
@drain_option
def run(  # noqa: PLR0913, PLR0917 - click passes options as arguments
    config: Path,
    env_file: Path,
    components: Path | None,
    host: str | None,
    keys: Path | None,
    min_replicas: int | None,
    max_replicas: int | None,
    max_replicas_per_node: int | None,
    metrics_port: int | None,
    cluster: bool,
    node_host: str | None,
    drain_timeout: float,
) -> None:
    """Serve in the foreground until Ctrl-C."""
    stop = StopSignals()  # first of all: what follows imports for seconds
    from serve_app.operations.ray_processes import start_alone, start_head
    from serve_app.operations.run import run_service
    from serve_app.operations.serve_config import Overrides

    def start_ray(folder: Path) -> str:
        return start_head(folder, node_host, metrics_port) if cluster else start_alone(folder, metrics_port)

    console.print("Starting Ray and Ray Serve ...")
    run_service(
        config,
        env_file,
        announce_service,
        Overrides(components, host, min_replicas, max_replicas, keys, max_replicas_per_node),
        stop=stop,
        start_ray=start_ray,
        is_cluster=cluster,
        drain_timeout_s=drain_timeout,
    )
    console.print("Stopped.")


@click.command("join")
@click.argument("head")
@env_file_option
@click.option("--num-cpus", type=click.IntRange(min=1), help="CPUs for replicas (default: all of this machine).")
@drain_option
def join_cluster(head: str, env_file: Path, num_cpus: int | None, drain_timeout: float) -> None:
    """Be a worker of the cluster whose head runs on the machine HEAD, until Ctrl-C."""
    stop = StopSignals()
    from serve_app.operations.join import join

    def announce(address: str, notes: tuple[str, ...]) -> None:
        for note in notes:
            console.print(note)
        console.print(f"Joined {head} as {address}.")

    console.print(f"Waiting for {head} ...")
    join(head, env_file, announce, stop=stop, num_cpus=num_cpus, drain_timeout_s=drain_timeout)
    console.print("Stopped.")


@click.command()
@config_option
@host_option
@click.option(
    "--timeout", type=Finite(min=0, min_open=True), default=8.0, show_default=True, help="Seconds to wait for the answer."
)
def ready(config: Path, host: str | None, timeout: float) -> None:
    """Ask the service on this machine whether it is ready; exits with 1 if it is not. For health checks of containers."""
    from serve_app.operations.ready import ask_ready

    console.print(f"{ask_ready(config, host, timeout)}: ready")


@click.command()
@click.argument("components", type=PATH)
@click.option("--canary", type=Finite(0, 1), help="Put the model on trial: it answers this share of the requests.")
@click.option("--shadow", type=Finite(0, 1), help="Put the model on trial: it gets a copy of this share of the requests.")
@click.option("--allow-schema-change", is_flag=True, help="Deploy the model even if clients must send other rows than now.")
@port_option
@address_option
def deploy(  # noqa: PLR0913, PLR0917 - click passes options as arguments
    components: Path,
    canary: float | None,
    shadow: float | None,
    allow_schema_change: bool,
    port: int | None,
    address: str | None,
) -> None:
    """Switch the running service to the model COMPONENTS without a pause; the model is verified first."""
    from serve_app.operations.release import deploy as release

    if canary is not None and shadow is not None:
        raise click.UsageError("--canary and --shadow are two trials; begin one after the other")
    with console.status("Verifying, loading, switching ..."):
        announce_release(
            release(
                components,
                canary=canary,
                shadow=shadow,
                allow_schema_change=allow_schema_change,
                address=None if port else address,  # the port is chosen here, the address may come from the environment
                port=port,
            )
        )


@click.command()
@port_option
@address_option
def rollback(port: int | None, address: str | None) -> None:
    """Undo the latest deploy: end a trial, or serve the previous version again."""
    from serve_app.operations.release import roll_back

    with console.status("Switching ..."):
        announce_release(roll_back(address=None if port else address, port=port))


COMMANDS = (run, join_cluster, ready, deploy, rollback)

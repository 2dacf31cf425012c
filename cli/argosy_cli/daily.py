"""The commands for every day: models by name, without a resource file."""

# ruff: noqa: PLC0415, PLR0917 - each command imports what it needs, so that all start fast; typer wants plain parameters

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from argosy_cli.errors import CommandError
from argosy_cli.options import Detach, GrpcPort, Host, HttpPort, MetricsPort, Seed
from argosy_cli.source.catalog import CATALOG

if TYPE_CHECKING:
    from rich.console import Console


def _models(incomplete: str) -> list[str]:
    return [name for name in CATALOG if name.startswith(incomplete)]


MODEL_HELP = "A path, hf://org/repo[:Q4_K_M], package://…, or a name that `argosy list` has."
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, autocompletion=_models)]


Output = Annotated[str | None, typer.Option("-o", "--output", metavar="FORMAT", help="json, for programs.")]


def run(
    model: ModelName,
    prompt: Annotated[
        str | None, typer.Argument(metavar="[PROMPT]", help="The question; - reads stdin. Without it: a conversation.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    max_tokens: Annotated[int, typer.Option(metavar="N", help="Most tokens of one answer.")] = 512,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", help="0 always takes the most likely token. Default: the model's own.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(metavar="P", help="Default: the model's own.")] = None,
    seed: Seed = None,
) -> None:
    """Ask a model, or talk to it: one that is served here already, or one that is served for as long as this runs."""
    from argosy_cli.run_model import run_model

    wanted: dict[str, float | int | None] = {"temperature": temperature, "top_p": top_p, "seed": seed}
    run_model(model, prompt, wanted, system=system, max_tokens=max_tokens)


def serve(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help=MODEL_HELP, autocompletion=_models)],
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Served name. Default: made of the model's.")] = None,
    replicas: Annotated[int, typer.Option(metavar="N", help="Workers for each model.")] = 1,
    max_model_len: Annotated[
        int | None, typer.Option(metavar="TOKENS", help="Longest prompt and answer together. Default: the model's.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(metavar="FORMAT", help="auto, none, fp16, bf16, int8, int4 or fp8.")
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="A GPU for each worker.")] = False,
    host: Host = "127.0.0.1",
    http_port: HttpPort = 8000,
    grpc_port: GrpcPort = 8001,
    metrics_port: MetricsPort = 8002,
    detach: Detach = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resource, and no more.")] = False,
) -> None:
    """Serve models without a resource file, and print the one that this stands for."""
    from argosy_cli.embedded.assembly import Options
    from argosy_cli.serve import Settings
    from argosy_cli.serve import serve as run_serve

    settings = Settings(name=name, replicas=replicas, max_model_len=max_model_len, weights=weights, gpu=gpu)
    options = Options(host=host, http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port)
    run_serve(models, settings, options, detach=detach, dry_run=dry_run)


def ps(output: Output = None) -> None:
    """List what runs on this machine: a line for each model that is served."""
    from argosy_cli import runs

    runs.ps(_console(), as_json=_as_json(output))


def down(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Resources or runs. Default: the one that runs.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All runs.")] = False,
) -> None:
    """End what runs; requests that are under way may finish first."""
    from argosy_cli import runs

    runs.down(names or [], everything=everything, say=print)


def logs(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A resource, a replica, router, valkey or a run.")
    ] = None,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run ends, or Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("-n", "--lines", metavar="N", min=0, help="Of each log, from its end.")] = 50,
) -> None:
    """Show the logs of the newest run."""
    from argosy_cli import runs

    for line in runs.logs(name, follow=follow, lines=lines):
        print(line, flush=follow)


def _console() -> "Console":
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160)


def _as_json(output: str | None) -> bool:
    if output not in (None, "json"):
        raise CommandError(f"-o {output} is not known; it can: json")
    return output is not None


def pull(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help=MODEL_HELP, autocompletion=_models)],
) -> None:
    """Download models; what broke off goes on, and checksums are held against the hub's."""
    from argosy_cli import library

    library.pull(models, _console())


def list_models(output: Output = None) -> None:
    """List the models on this machine, and those that have a short name."""
    from argosy_cli import library

    library.list_models(_console(), as_json=_as_json(output))


def show(model: ModelName, output: Output = None) -> None:
    """Show what a model's files say: architecture, quantization, context, template, licence, memory."""
    from argosy_cli import library

    library.show(model, _console(), as_json=_as_json(output))


def rm(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="As `argosy list` names them.")],
) -> None:
    """Delete downloaded models."""
    from argosy_cli import library

    library.remove(models, _console())


def explain(
    request: Annotated[str, typer.Argument(metavar="REQUEST", help="Its id, as in x-request-id of its answer.")],
    url: Annotated[
        str | None, typer.Option(help="HTTP address of the router that took it. Default: the running `argosy up`.")
    ] = None,
    output: Annotated[str | None, typer.Option("-o", "--output", help="json, for programs.")] = None,
) -> None:
    """Tell where a request went and why: candidates and their costs, what was cached, workers that were lost."""
    import json

    from argosy_cli import explain as explaining

    if output not in (None, "json"):
        raise CommandError(f"-o {output} is not known; it can: json")
    found = explaining.asked(request, url)
    for line in [json.dumps(found, indent=2)] if output else explaining.lines(found):
        print(line)

"""The `argosy` command line."""

# ruff: noqa: PLC0415, PLR0917 - each command imports what it needs, so that all start fast; typer wants plain parameters

import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer

from argosy_api.errors import ArgosyError
from argosy_api.params import SamplingParams
from argosy_cli import daily, keys, model_tools
from argosy_cli.bench.command import bench
from argosy_cli.errors import CommandError
from argosy_cli.options import (
    Address,
    Context,
    Detach,
    Everywhere,
    Files,
    GrpcPort,
    Host,
    HttpPort,
    Kubeconfig,
    MetricsPort,
    Model,
    Namespace,
    Seed,
    Stop,
    Temperature,
)
from argosy_cli.wording import Group

app = typer.Typer(
    name="argosy",
    cls=Group,
    help="Serve language models from one resource: here on this machine, or in a Kubernetes cluster.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"argosy {installed_version('argosy')}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, help="Print the version.", callback=_version)
    ] = False,
) -> None:
    pass


@app.command()
def up(
    files: Files,
    host: Host = "127.0.0.1",
    http_port: HttpPort = 8000,
    grpc_port: GrpcPort = 8001,
    metrics_port: MetricsPort = 8002,
    access: Annotated[
        Path | None, typer.Option(help="Who may ask, and how much (docs/tenants.md). Default: anybody.", exists=True)
    ] = None,
    api_keys: Annotated[
        Path | None,
        typer.Option(help="Directory of API keys, as `argosy key TENANT --into` fills it.", file_okay=False),
    ] = None,
    cors_origins: Annotated[
        str, typer.Option(help="Web pages that browsers let ask, as https://chat.example.org,…; * for any.")
    ] = "",
    detach: Detach = False,
) -> None:
    """Run resources on this machine until Ctrl-C: workers, router and Valkey as local processes."""
    from argosy_cli.embedded.assembly import Options
    from argosy_cli.up import up as run_up
    from argosy_router.origins import parse_origins

    ports = {"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port}
    try:
        parse_origins(cors_origins)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--cors-origins") from None
    options = Options(host=host, **ports, access=access, api_keys=api_keys, cors_origins=cors_origins)
    run_up(files, options, detach=detach)


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="A resource: why it is not ready, and what to do.")] = None,
    namespace: Namespace = None,
    everywhere: Everywhere = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Annotated[str | None, typer.Option("-o", "--output", help="json, yaml or wide, of a cluster.")] = None,
) -> None:
    """Show what `argosy up` runs, or with a name or an option of kubectl's how resources of a cluster stand."""
    from rich.console import Console

    from argosy_cli import views
    from argosy_cli.cluster.command import Where, check_output

    check_output(output)
    where = Where(namespace=namespace, everywhere=everywhere, context=context, kubeconfig=kubeconfig)
    views.status(Console(width=None if sys.stdout.isatty() else 160), name, where, output)


@app.command()
def top(
    name: Annotated[str | None, typer.Argument(help="One resource alone.")] = None,
    once: Annotated[
        bool, typer.Option("--once", help="One table, then end; so it is where the output is no terminal.")
    ] = False,
    interval: Annotated[float, typer.Option(min=0.5, max=60, help="Seconds between two looks.")] = 2.0,
    namespace: Namespace = None,
    everywhere: Everywhere = False,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Annotated[str | None, typer.Option("-o", "--output", help="json, for programs; once.")] = None,
) -> None:
    """Show what deployments do now: replicas, queue, requests, hits, tokens a second. Until Ctrl-C."""
    from rich.console import Console

    from argosy_cli.cluster.command import Where
    from argosy_cli.top.command import Wish
    from argosy_cli.top.command import top as show
    from argosy_cli.views import asks_cluster

    if output not in (None, "json"):
        raise CommandError(f"-o {output} is not known; it can: json")
    where = Where(namespace=namespace, everywhere=everywhere, context=context, kubeconfig=kubeconfig)
    wish = Wish(name=name, interval_s=interval, once=once, as_json=output is not None)
    show(Console(), where, wish, cluster=asks_cluster(where, None))


@app.command()
def plan(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE...]", help="YAML with InferenceDeployments; - reads stdin.")
    ] = None,
    filename: Annotated[
        list[Path] | None, typer.Option("-f", "--filename", help="The same, as kubectl has it.")
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="Kind of the GPU: h100, a100-80, rtx4090, l4, ...")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory of the GPU, or of a CPU worker, as 16Gi.")] = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens of the requests that are counted. Default: 8192.", min=16)
    ] = None,
    output: Annotated[str | None, typer.Option("-o", "--output", help="json, for programs.")] = None,
) -> None:
    """Show how the memory of each worker will divide, from the model's header alone, and whether it fits."""
    from rich.console import Console

    from argosy_cli.planning.command import plan as make_plan

    chosen = [*(files or ()), *(filename or ())]
    if not chosen or output not in (None, "json"):
        wrong = "no FILE was given" if not chosen else f"-o {output} is not known; it can: json"
        raise CommandError(wrong)
    console = Console(width=None if sys.stdout.isatty() else 160)
    make_plan(chosen, console, gpu=gpu, memory=memory, context=context, as_json=output is not None)


@app.command()
def manifests(files: Files) -> None:
    """Print the Kubernetes manifests that the operator would apply for these resources."""
    from argosy_cli import views

    print(views.manifests(files), end="")


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="The question; - reads stdin.")],
    model: Model = None,
    max_tokens: Annotated[int, typer.Option(metavar="N", help="Most tokens to generate.")] = 256,
    temperature: Temperature = 0.0,
    seed: Seed = None,
    stop: Stop = None,
    chat: Annotated[
        bool,
        typer.Option("--chat/--raw", help="Ask through the model's chat template, or go on with the text as it is."),
    ] = True,
    address: Address = None,
) -> None:
    """Stream an answer to the terminal; its figures go to stderr."""
    from argosy_cli import ask, client
    from argosy_cli.talk import Turn

    text = sys.stdin.read() if prompt == "-" else prompt
    if not text.strip():
        raise CommandError("PROMPT is empty: there is nothing to ask")
    sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed, stop=tuple(stop or ()))
    where = client.find_address(address)
    served = client.find_model(model, where)
    request = (
        ask.chat_request(served, [Turn("user", text)], sampling) if chat else ask.raw_request(served, text, sampling)
    )
    with client.Client(where) as connection:
        answer = ask.generate(connection, request, out=sys.stdout)
    print(answer.summary(), file=sys.stderr)


@app.command()
def chat(
    model: Model = None,
    max_tokens: Annotated[int, typer.Option(metavar="N", help="Most tokens of one answer.")] = 512,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", help="0 always takes the most likely token. Default: the model's own.")
    ] = None,
    seed: Seed = None,
    system: Annotated[str | None, typer.Option(help="What the model is told first.")] = None,
    address: Address = None,
) -> None:
    """Talk to a model. Ctrl-C ends an answer, Ctrl-D leaves; without a terminal each line of stdin is a question."""
    from argosy_cli import ask, client
    from argosy_cli.run_model import sampling_of

    where = client.find_address(address)
    served = client.find_model(model, where)
    wanted = {"temperature": temperature, "seed": seed}
    sampling = sampling_of(client.uri_of(served, where), wanted, max_tokens=max_tokens)
    with client.Client(where) as connection:
        ask.chat(connection, served, sampling, system=system, source=sys.stdin)


@app.command()
def trace(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCE...]",
            help="host:port of a worker's metrics, or a trace file. Default: the workers of `argosy up`.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the picture goes.")] = Path("argosy-trace.json"),
) -> None:
    """Draw what workers' steps computed, for Perfetto or chrome://tracing; needs engine.stepTrace."""
    from argosy_cli.trace import trace as draw

    for line in draw(sources or (), out):
        print(line)


@app.command()
def demo(http_port: HttpPort = 8000, grpc_port: GrpcPort = 8001, metrics_port: MetricsPort = 8002) -> None:
    """Show it all in a minute: two replicas of a small model, a streamed answer, and a hit in the prefix cache."""
    from argosy_cli.demo import demo as run_demo
    from argosy_cli.embedded.assembly import Options

    run_demo(Options(http_port=http_port, grpc_port=grpc_port, metrics_port=metrics_port))


app.command()(daily.run)
app.command()(daily.explain)
app.command()(daily.serve)
app.command()(daily.pull)
app.command("list")(daily.list_models)
app.command()(daily.show)
app.command()(daily.rm)
app.command()(daily.ps)
app.command()(daily.down)
app.command()(daily.logs)
app.command()(bench)
app.command()(keys.key)
app.command()(model_tools.quantize)
app.command()(model_tools.tradeoffs)


def main() -> None:
    """Run the command; a user's error is one line and an exit code, never a traceback."""
    try:
        app()
    except CommandError as error:
        print(f"error: {error.message}", file=sys.stderr)
        sys.exit(error.exit_code)
    except ArgosyError as error:
        print(f"error: {error.message}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)

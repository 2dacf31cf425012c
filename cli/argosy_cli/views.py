"""`argosy status` and `argosy manifests`: what is the case, and what would be done."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from rich.console import Console

from argosy_api.advice import advice
from argosy_cli.cluster import command
from argosy_cli.cluster.command import Where
from argosy_cli.embedded import resources, run
from argosy_cli.embedded.show import describe, table
from argosy_cli.embedded.states import ResourceState, RunState
from argosy_cli.errors import CommandError
from argosy_operator.manifests import PlanSettings
from argosy_operator.plan import Observed
from argosy_operator.plan import plan as make_plan


def status(console: Console, name: str | None, where: Where, output: str | None) -> None:
    """Print all runs of the state folder; with a name why that resource is not ready; else what a cluster has.

    Raises:
        CommandError: nothing runs, or the cluster cannot say.

    """
    root = run.home(os.environ)
    states = run.live(root)
    if asks_cluster(where, output):
        command.status(name, where, output, _say(console))
    elif name is not None:
        found = [item for state in states for item in state.resources if item.name == name]
        if not found:
            command.status(name, where, output, _say(console))
        for item in found:
            for line in explain_local(item):
                _say(console)(line)
    elif not states:
        raise CommandError(
            f"nothing runs here (state folder {root}); start it with `argosy up FILE.yaml`, or ask a cluster: -A"
        )
    else:
        for state in states:
            _print_run(console, state, root)


def asks_cluster(where: Where, output: str | None) -> bool:
    """Whether options say that a cluster is meant; as `kubectl argosy` it always is."""
    return where != Where() or output is not None or Path(sys.argv[0]).name.startswith("kubectl-")


def explain_local(item: ResourceState) -> list[str]:
    """How a resource of `argosy up` stands, and what to do about each replica that is not ready."""
    well = item.ready == len(item.replicas)
    lines = [f"{item.name}: {'ready' if well else 'not ready'}, {item.ready} of {len(item.replicas)} replicas serve."]
    for replica in item.replicas:
        if not replica.ready:
            lines.append(f"  {replica.name}: {describe(replica)}")
            if replica.reason and (todo := advice(replica.reason)):
                lines.append(f"  What to do: {todo}")
    return lines


def _say(console: Console) -> Callable[[str], None]:
    return lambda text: console.print(text, highlight=False, markup=False, soft_wrap=True)


def manifests(files: Sequence[Path]) -> str:
    """The manifests that the operator would apply for these resources, as YAML."""
    found = [m for item in resources.load(files) for m in make_plan(item.resource, Observed(), PlanSettings()).apply]
    return yaml.safe_dump_all(found, sort_keys=False, width=120)


def _print_run(console: Console, state: RunState, root: Path) -> None:
    say = _say(console)
    minutes, seconds = divmod(int(time.time() - state.started), 60)
    say(f"run {state.run}: process {state.pid}, for {minutes} min {seconds} s")
    for resource in state.resources:
        model = f"model {resource.served_name} ({resource.uri})"
        say(f"{resource.name}: {resource.ready} of {len(resource.replicas)} replicas ready; {model}")
    console.print(table(state, console.width))
    say(f"HTTP http://{state.http}/v1   gRPC {state.grpc}   metrics http://{state.metrics}/metrics/all")
    say(f"logs {root / state.run}")

"""`argosy status` and `argosy manifests`: what is the case, and what would be done."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from rich.console import Console

from argosy_cli.embedded import resources, run
from argosy_cli.embedded.show import table
from argosy_cli.embedded.states import RunState
from argosy_cli.errors import CommandError
from argosy_operator.manifests import PlanSettings
from argosy_operator.plan import Observed
from argosy_operator.plan import plan as make_plan


def status(console: Console) -> None:
    """Print all runs of the state folder.

    Raises:
        CommandError: nothing runs.

    """
    root = run.home(os.environ)
    states = run.live(root)
    if not states:
        raise CommandError(f"nothing runs here (state folder {root}); start it with `argosy up FILE.yaml`")
    for state in states:
        _print_run(console, state, root)


def manifests(files: Sequence[Path]) -> str:
    """The manifests that the operator would apply for these resources, as YAML."""
    found = [m for item in resources.load(files) for m in make_plan(item.resource, Observed(), PlanSettings()).apply]
    return yaml.safe_dump_all(found, sort_keys=False, width=120)


def _print_run(console: Console, state: RunState, root: Path) -> None:
    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    minutes, seconds = divmod(int(time.time() - state.started), 60)
    say(f"run {state.run}: process {state.pid}, for {minutes} min {seconds} s")
    for resource in state.resources:
        model = f"model {resource.served_name} ({resource.uri})"
        say(f"{resource.name}: {resource.ready} of {len(resource.replicas)} replicas ready; {model}")
    console.print(table(state))
    say(f"HTTP http://{state.http}/v1   gRPC {state.grpc}   metrics http://{state.metrics}/metrics")
    say(f"logs {root / state.run}")

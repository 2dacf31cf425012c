"""Asking a run that goes on to do something, and waiting for its answer."""

import time
from pathlib import Path

from argosy_api.orders import FOLDER, Order, place
from argosy_cli.embedded import run
from argosy_cli.errors import CommandError

LOOK_S = 0.1
KEPT_ANSWERS = 32
ANSWER_S = 600.0
"""Longer than the drain of any worker that is ended takes."""


def ask(root: Path, name: str, order: Order) -> None:
    """Leave an order for a run, and wait until it was carried out.

    Raises:
        CommandError: it was refused, or the run has ended, or takes no orders.

    """
    place(root / name / FOLDER, order)
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        state = next((state for state in run.live(root) if state.run == name), None)
        if state is None:
            raise CommandError(f"run {name} has ended meanwhile")
        if order.key in state.answers:
            if answer := state.answers[order.key]:
                raise CommandError(answer)
            return
        time.sleep(LOOK_S)
    raise CommandError(f"run {name} takes no orders; look at its logs: `argosy logs`")

"""`argosy tradeoffs`: a worker for each setup, one after the other, so that none disturbs another's figures."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from argosy_api.errors import InvalidArgumentError
from argosy_api.model_uri import ModelUri
from argosy_cli.embedded import machine
from argosy_cli.errors import CommandError
from argosy_cli.tradeoffs import part, picture, report
from argosy_cli.tradeoffs.measure import LENGTH, SEQUENCES, measure, own_text
from argosy_cli.tradeoffs.setups import Setup, setups
from argosy_cli.tradeoffs.worker import SetupRefusedError, measured_worker

FILES = ("tradeoffs.json", "tradeoffs.md", "tradeoffs.svg")
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What was asked for."""

    uri: str
    out: Path
    """Folder for FILES; made where it is missing."""
    only: tuple[str, ...] = ()
    """Parts of names of setups; empty for all. The reference is always measured."""
    draft: str | None = None
    threads: int | None = None
    seed: int = 0


def model_uri(model: str) -> str:
    """A path as a URI; a URI as it is.

    Raises:
        InvalidArgumentError: naming MODEL.

    """
    if "://" not in model:
        path = Path(model)
        if not path.exists():
            raise InvalidArgumentError("MODEL", f"there is no file or folder {model}")
        return f"file://{path.resolve()}"
    if ModelUri.parse(model).scheme == "sim":
        raise InvalidArgumentError("MODEL", "a simulated model has nothing to measure")
    return model


def chosen(request: Request) -> list[Setup]:
    """The setups of a run.

    Raises:
        InvalidArgumentError: `--only` names none of them, or files of a former run are in the way.

    """
    for name in FILES:
        if (request.out / name).exists():
            raise InvalidArgumentError("--out", f"{request.out / name} exists")
    reference, *others = setups(request.threads, request.draft)
    for piece in request.only:
        if not any(piece in setup.name for setup in (reference, *others)):
            names = ", ".join(setup.name for setup in (reference, *others))
            raise InvalidArgumentError("--only", f"{piece!r} is in none of {names}")
    wanted = [s for s in others if not request.only or any(piece in s.name for piece in request.only)]
    return [reference, *wanted]


async def run(request: Request, progress: Progress, environment: Mapping[str, str] = os.environ) -> report.Found:
    """Measure all setups, and write the files. What an interrupted run has measured is not measured again.

    Raises:
        InvalidArgumentError: see `chosen` and `part.load`.
        CommandError: a worker fails for another reason than its setup, or the reference cannot be served.

    """
    wanted = chosen(request)
    cores = request.threads or machine.detect().cores
    about = {"model": request.uri, "draft": request.draft, "threads": cores, "seed": request.seed}
    state = part.load(request.out, about)
    for number, setup in enumerate(wanted):

        def say(stage: str, setup: Setup = setup, number: int = number) -> None:
            progress(f"{setup.name}: {stage}", number / len(wanted))

        if state.row(setup.name) is None:
            state.rows.append(await _measured(request.uri, setup, state, say, environment))
            state.save(request.out)
    rows = tuple(row for setup in wanted if (row := state.row(setup.name)) is not None)
    text = f"{SEQUENCES} x {LENGTH} tokens that the model sampled in fp32 (temperature 1, seed {request.seed})"
    found = report.Found(request.uri, {"cores": cores, "instructions": state.instructions}, text, rows)
    _write(request.out, found)
    (request.out / part.NAME).unlink()
    return found


async def _measured(
    uri: str, setup: Setup, state: part.Part, say: Callable[[str], None], environment: Mapping[str, str]
) -> report.Row:
    """A row. The first one is the reference's, and notes in `state` what the others are compared with."""
    say("loading")
    try:
        async with measured_worker(uri, setup, environment) as worker:
            if not state.rows:
                say("sampling text")
                state.texts = await own_text(worker, state.about["seed"])
                state.instructions = worker.info.instruction_set
            figures, scores = await measure(worker, state.texts, state.scores or None, say)
    except SetupRefusedError as error:
        if not state.rows:
            raise CommandError(error.message) from None
        return report.Row(setup.name, None, error.message)
    state.scores = state.scores or scores
    return report.Row(setup.name, figures)


def _write(out: Path, found: report.Found) -> None:
    measured = [(row.name, row.figures) for row in found.rows if row.figures is not None]
    contents = (found.to_json(), report.markdown(found), picture.draw(found.model, measured))
    out.mkdir(parents=True, exist_ok=True)
    for name, content in zip(FILES, contents, strict=True):
        (out / name).write_text(content, encoding="utf-8")

"""`argosy quantize`: the worker's own work on a model, with a bar of progress and a table at the end."""

import math
import os
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from argosy_api.errors import InvalidArgumentError
from argosy_api.model_uri import ModelUri
from argosy_cli.embedded import run
from argosy_cli.errors import CommandError
from argosy_cli.progress import Told, bar

try:
    from argosy_worker.fetch import uri as sources
    from argosy_worker.quantize import command
except ImportError as error:  # the command line is there without torch, too
    raise CommandError(
        f"this needs the worker's packages ({error.name} is missing): pip install 'argosy[worker]'"
    ) from None


def resolve(model: str, progress: Told) -> Path:
    """The file or folder of MODEL: a path, or a URI as in `spec.model.uri`, which may be downloaded.

    Raises:
        InvalidArgumentError: naming MODEL.
        ModelError: there is no such model.

    """
    if "://" not in model:
        path = Path(model)
        if not path.exists():
            raise InvalidArgumentError("MODEL", f"there is no file or folder {model}")
        return path
    uri = ModelUri.parse(model)
    if uri.scheme == "sim":
        raise InvalidArgumentError("MODEL", "a simulated model has no weights")
    return sources.resolve(uri, cache_dir=run.cache(os.environ), progress=progress)


def quantize(model: str, console: Console, make_job: Callable[[Path], command.Job]) -> None:
    """Run the job for this model, and print what came of it.

    Raises:
        CommandError, ArgosyError: what is wrong; nothing is left behind.

    """
    try:
        with bar(console) as progress:
            job = make_job(resolve(model, progress))
            report = command.quantize(job, progress=progress)
    except OSError as error:
        raise CommandError(f"cannot write {error.filename or 'the file'}: {error.strerror or error}") from None
    console.print(table(report))
    if report.formats:
        console.print("tensors: " + ", ".join(f"{count} {name}" for name, count in report.formats), highlight=False)
    if report.text:
        console.print(f"text: {report.text}", highlight=False, markup=False, soft_wrap=True)


def table(report: command.Report) -> Table:
    """Source, plain rounding and what was written, with their perplexities."""
    first = report.rows[0].perplexity or math.nan
    found = Table("", "MiB", "perplexity", "change")
    for row in report.rows:
        found.add_row(
            row.name,
            f"{row.nbytes / 2**20:.1f}",
            "-" if row.perplexity is None else f"{row.perplexity:.3f}",
            "" if row.perplexity is None or row is report.rows[0] else f"{row.perplexity / first - 1:+.2%}",
        )
    return found

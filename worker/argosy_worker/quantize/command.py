"""`argosy quantize`: everything is checked first, the file is written aside, measured, and only then put in place."""

import math
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from argosy_api.errors import InvalidArgumentError
from argosy_worker.core.facts import ModelFacts
from argosy_worker.evaluate.score import Progress, score, silent
from argosy_worker.evaluate.text import file_text, own_text, tokens_in
from argosy_worker.models import load_model
from argosy_worker.models.build import open_model
from argosy_worker.models.gguf import GgufFile
from argosy_worker.models.weights import shape_of
from argosy_worker.quantize import gguf_out, hf_out
from argosy_worker.quantize.subject import ENDS, Subject
from argosy_worker.quantize.targets import Method, Target, find

LENGTH = 256
"""Tokens of a sequence of calibration text or of the text for perplexity."""
CALIBRATION, HELD_OUT = 32, 16
"""Sequences of each that the model samples; of a file's text at most so many are taken."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.|\.index\.json$")
_SLACK_BYTES = 64 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What was asked for; paths as they were given."""

    source: Path
    """A GGUF file, or a folder."""
    to: str
    out: Path
    method: str | None = None
    group_size: int | None = None
    calibration: Path | None = None
    seed: int = 0
    check: bool = True
    """Whether to measure what was lost."""
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Loss:
    """A file, and what it loses of the model's quality."""

    name: str
    nbytes: int
    perplexity: float | None
    """On the text that was held out; None where nothing was measured."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was done."""

    method: Method
    text: str
    """Which text was used for calibration and perplexity; empty where none was."""
    rows: tuple[Loss, ...]
    """The source, in fp32; plain rounding, where another method was used; what was written."""
    formats: tuple[tuple[str, int], ...] = ()
    """Of a GGUF file that was written: formats of its tensors, and how many there are of each."""


def quantize(job: Job, *, progress: Progress = silent) -> Report:
    """Write `job.out`. Nothing is left behind when it fails.

    Raises:
        InvalidArgumentError: an argument is wrong; names it.
        ModelError: the model cannot be read, or cannot be written like that.
        OSError: the disk is full, or the like.

    """
    to_file = _check_out(job.out)
    target, method = find(job.to, file=to_file, group=job.group_size, method=job.method)
    if to_file and job.source.is_dir() and not list(job.source.glob("*.gguf")):
        raise InvalidArgumentError(
            "--out", "a GGUF file is written from a GGUF file only; from a folder of safetensors, name a folder"
        )
    if job.calibration is not None and method == "round" and not job.check:
        raise InvalidArgumentError("--calibration", f"{job.to} is rounded plainly and --no-check measures nothing")
    with ExitStack() as stack:
        opened = open_model(job.source, stack)
        subject = Subject(opened, threads=job.threads, progress=progress)
        _check_room(job.out.parent, subject, target)
        about, calibration, held_out = _texts(job, subject, method, progress)
        rows = []
        if job.check:
            rows.append(
                Loss(
                    "as it was, in fp32",
                    _size(job.source),
                    score(subject.model, held_out, progress=progress).perplexity,
                )
            )
        for way in dict.fromkeys(("round", method) if job.check else (method,)):
            coded = {} if target.grid is None else subject.quantize(target, way, calibration, progress)
            with _aside(job.out) as draft:
                content = hf_out.Content(
                    source=job.source,
                    weights=opened.weights,
                    facts=opened.tokenizer,
                    target=target,
                    coded=coded,
                    roles=[*subject.matrices, *subject.vectors],
                )
                _write(draft, job, content, progress)
                name = "plain rounding" if way == "round" and method != "round" else f"{job.out.name} ({way})"
                rows.append(Loss(name, _size(draft), _measure(draft, held_out, job, progress)))
                if way == method:
                    _put(draft, job.out)
    return Report(method, about, tuple(rows), _formats(job.out) if to_file else ())


def _check_out(out: Path) -> bool:
    """Whether `--out` is a GGUF file, else a folder."""
    if out.exists() or out.is_symlink():
        raise InvalidArgumentError("--out", f"{out} exists")
    if not out.parent.is_dir():
        raise InvalidArgumentError("--out", f"there is no folder {out.parent}")
    if not os.access(out.parent, os.W_OK):
        raise InvalidArgumentError("--out", f"the folder {out.parent} is not writable")
    if _SHARD.search(out.name):
        raise InvalidArgumentError("--out", f"{out.name} is the name of a part; name the whole file, or a folder")
    if out.suffix == ".safetensors":
        raise InvalidArgumentError(
            "--out", f"safetensors go into a folder with their configuration; name one, not {out.name}"
        )
    return out.suffix == ".gguf"


def _check_room(folder: Path, subject: Subject, target: Target) -> None:
    config = subject.model.config
    sizes = {role: math.prod(shape_of(config, role)) for role in subject.matrices}
    need = _SLACK_BYTES + sum(target.nbytes(size, end=role in ENDS) for role, size in sizes.items())
    free = shutil.disk_usage(folder).free
    if free < need:
        raise InvalidArgumentError(
            "--out", f"about {need >> 20} MiB are needed in {folder}, but {free >> 20} MiB are free"
        )


def _texts(
    job: Job, subject: Subject, method: Method, progress: Progress
) -> tuple[str, Sequence[Sequence[int]], Sequence[Sequence[int]]]:
    """What the texts are; those for calibration; those held out."""
    wanted, kept = CALIBRATION * (method != "round"), HELD_OUT * job.check
    if not wanted + kept:
        return "", (), ()
    facts = subject.model.facts
    if job.calibration is None:
        found = own_text(subject.model, sequences=wanted + kept, length=LENGTH, seed=job.seed, progress=progress)
        about = f"text that the model sampled (temperature 1, seed {job.seed})"
    else:
        found = _from_file(job.calibration, facts, wanted, kept)
        kept = max(1, len(found) * kept // (wanted + kept)) if kept else 0
        about = str(job.calibration)
    cut = len(found) - kept
    parts = [f"{tokens_in(found[:cut])} tokens for calibration"] * bool(wanted)
    parts += [f"{tokens_in(found[cut:])} for perplexity"] * bool(kept)
    return f"{about}: {', '.join(parts)}", found[:cut], found[cut:]


def _from_file(path: Path, facts: ModelFacts, wanted: int, kept: int) -> list[list[int]]:
    found = file_text(path, facts, field="--calibration", length=LENGTH, most=wanted + kept)
    if wanted and kept and len(found) < 2:
        raise InvalidArgumentError(
            "--calibration",
            f"{path} has fewer than {2 * LENGTH} tokens: too few to calibrate with some and measure with others",
        )
    return found


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A path beside `out` to write to, gone afterwards unless it was moved away."""
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        yield Path(folder) / out.name


def _write(draft: Path, job: Job, content: hf_out.Content, progress: Progress) -> None:
    if draft.suffix != ".gguf":
        draft.mkdir()
        hf_out.write(draft, content, progress=progress)
        return
    source = job.source if job.source.is_file() else next(job.source.glob("*.gguf"))
    with GgufFile(source) as file:
        table = gguf_out.pieces(file, content.weights.config, content.target, content.coded)
        gguf_out.write(draft, source, table, content.target, progress=progress)


def _measure(path: Path, texts: Sequence[Sequence[int]], job: Job, progress: Progress) -> float | None:
    if not texts or not job.check:
        return None
    model = load_model(path, weights="none", compute="fp32", device="cpu", threads=job.threads)
    return score(model, texts, progress=progress).perplexity


def _put(draft: Path, out: Path) -> None:
    """Give the finished file its name, flushed to the disk before; never over another one."""
    for path in [draft] if draft.is_file() else sorted(draft.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
    if out.exists():
        raise InvalidArgumentError("--out", f"{out} exists by now")
    draft.rename(out)


def _formats(path: Path) -> tuple[tuple[str, int], ...]:
    with GgufFile(path) as file:
        return tuple(Counter(info.format for info in file.tensors.values()).most_common())


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(part.stat().st_size for part in path.iterdir() if part.suffix in (".safetensors", ".gguf"))

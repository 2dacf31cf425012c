"""Fixtures of the model tests: the real file, loaded models, a driver of runners, and a GGUF writer."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from argosy_api.params import SamplingParams
from argosy_worker.core.batch import Runner, SequenceSlice, StepBatch, StepOutput
from argosy_worker.models import LoadedModel, load_model

BLOCK = 16


@pytest.fixture(scope="session")
def int8_model(smollm_path: Path) -> LoadedModel:
    return load_model(smollm_path, compute="auto", device="cpu", threads=2)


@pytest.fixture(scope="session")
def fp32_model(smollm_path: Path) -> LoadedModel:
    return load_model(smollm_path, compute="fp32", device="cpu", threads=2)


@dataclass
class Job:
    """One request, driven by hand: prompt in chunks, then token by token."""

    name: str
    prompt: list[int]
    params: SamplingParams
    table: list[int] = field(default_factory=list)
    done: int = 0
    outputs: list[StepOutput] = field(default_factory=list)

    @property
    def known(self) -> list[int]:
        return [*self.prompt, *(o.tokens[0] for o in self.outputs)]

    @property
    def ended(self) -> bool:
        return len(self.outputs) == self.params.max_tokens

    def slice(self, chunk: int) -> SequenceSlice:
        known = self.known
        tokens = known[self.done : self.done + chunk]
        ends = self.done + len(tokens) == len(known)
        return SequenceSlice(
            request_id=self.name,
            tokens=tokens,
            start=self.done,
            table=self.table,
            sample_rows=range(len(tokens) - 1, len(tokens)) if ends else range(0),
            params=self.params,
        )


def drive(
    runner: Runner, jobs: Sequence[Job], *, chunk: int, first_block: int = 1, together: bool = True
) -> list[list[StepOutput]]:
    """Run jobs to their end, all in each step (or one after another); their outputs."""
    block = first_block
    for job in jobs:
        need = -(-(len(job.prompt) + job.params.max_tokens) // BLOCK) - len(job.table)
        job.table = [*job.table, *range(block, block + need)]
        block += need
    groups = [list(jobs)] if together else [[job] for job in jobs]
    for group in groups:
        while active := [job for job in group if not job.ended]:
            slices = [job.slice(chunk) for job in active]
            for job, part, output in zip(active, slices, runner.launch(StepBatch(slices)).result(), strict=True):
                assert output.error is None
                job.done += len(part.tokens)
                if part.sample_rows:
                    job.outputs.append(output)
                else:
                    assert list(output.tokens) == []
    return [job.outputs for job in jobs]


@pytest.fixture(scope="session")
def make_job() -> type[Job]:
    return Job


@pytest.fixture(scope="session")
def run_jobs() -> Callable[..., list[list[StepOutput]]]:
    return drive


# --- writing GGUF files


@dataclass
class Gguf:
    """Content of a GGUF file to write. Metadata values: (type number, python value); arrays: (9, (inner type, list))."""

    metadata: dict[str, tuple[int, object]] = field(default_factory=dict)
    tensors: dict[str, tuple[tuple[int, ...], int, bytes]] = field(default_factory=dict)
    """name -> (shape, slowest first; GGML type; bytes)"""
    version: int = 3
    magic: bytes = b"GGUF"

    def encode(self) -> bytes:
        out = [self.magic, struct.pack("<IQQ", self.version, len(self.tensors), len(self.metadata))]
        for key, (kind, value) in self.metadata.items():
            out += [_text(key), struct.pack("<I", kind), _value(kind, value)]
        offset = 0
        for name, (shape, kind, raw) in self.tensors.items():
            out += [
                _text(name),
                struct.pack("<I", len(shape)),
                struct.pack(f"<{len(shape)}Q", *shape[::-1]),
                struct.pack("<IQ", kind, offset),
            ]
            offset += -(-len(raw) // 32) * 32
        head = b"".join(out)
        body = b"".join(raw + bytes(-len(raw) % 32) for _, _, raw in self.tensors.values())
        return head + bytes(-len(head) % 32) + body


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(kind: int, value: object) -> bytes:
    if kind == 8:
        return _text(str(value))
    if kind == 9:
        inner, items = value
        return struct.pack("<IQ", inner, len(items)) + b"".join(_value(inner, item) for item in items)
    return struct.pack("<" + {0: "B", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q"}[kind], value)


@pytest.fixture(scope="session")
def gguf_type() -> type[Gguf]:
    return Gguf

"""What a CPU can do at most, measured; and what a model asks of it for a token."""

import json
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from argosy_worker.models.gguf import GgufFile
from argosy_worker.models.gguf_config import read_config

_BLOCK_BYTES = {4: 20, 8: 34}
"""Of 32 weights, with their scales."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Of so many threads side by side."""

    threads: int
    read: float
    """Bytes a second from memory."""
    bytes: float
    """Multiply-adds of bytes a second; 0 where the processor has no instruction for them."""
    floats: float
    """Multiply-adds of fp32 a second."""

    def __str__(self) -> str:
        return (
            f"{self.threads} thread{'s' if self.threads > 1 else ''}: {self.read / 1e9:.1f} GB/s read, "
            f"{self.bytes / 1e9:.0f} G multiply-adds of bytes and {self.floats / 1e9:.0f} G of fp32 a second"
        )


def measured(threads: int) -> list[Ceiling]:
    """For one thread and for all; empty where there is no compiler. Takes some seconds."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "ceilings"
        source = Path(__file__).with_name("ceilings.cpp")
        options = ["-O3", "-march=native", "-std=c++20", "-pthread"]
        subprocess.run([compiler, *options, str(source), "-o", str(program)], check=True)
        told = subprocess.run([str(program), str(threads)], check=True, capture_output=True, text=True).stdout
    return [Ceiling(**json.loads(line)) for line in told.splitlines()]


@dataclass(frozen=True, slots=True)
class Work:
    """What a token of a model takes."""

    weights: int
    """Weights of all layers' linears: multiply-adds of bytes for each row."""
    layer_bytes: int
    head: int
    """Weights of the LM head: multiply-adds for each row that is sampled."""
    head_bytes: int
    kv_bytes: int
    """Of a token of context, read for each row, in fp16."""
    attention: int
    """Multiply-adds of fp32 for each row and token of its context."""

    def decode_bytes(self, rows: int, context: float) -> float:
        """Bytes that a decode step reads for each of so many rows with so much context."""
        return (self.layer_bytes + self.head_bytes) / rows + self.kv_bytes * context


def work(path: Path) -> Work:
    """Of a GGUF file whose layers are in 4 bits and whose head is in 8."""
    with GgufFile(path) as file:
        c = read_config(file)
    layer = c.hidden * (c.heads + 2 * c.kv_heads) * c.head_dim + c.heads * c.head_dim * c.hidden + 3 * c.hidden * c.ffn
    weights, head = c.layers * layer, c.hidden * c.vocab_size
    return Work(
        weights, weights * _BLOCK_BYTES[4] // 32, head, head * _BLOCK_BYTES[8] // 32,
        c.layers * 2 * c.kv_heads * c.head_dim * 2, c.layers * 2 * c.heads * c.head_dim,
    )  # fmt: skip

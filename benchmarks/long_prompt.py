"""The memory that one long prompt takes: random weights of Llama 3.2 1B's shape, 2 layers, a prompt of 32k tokens.

    python benchmarks/long_prompt.py [--tokens 32768] [--kv auto] [--window 0]

A child process builds the model, notes what it has resident, and computes the prompt under the real scheduler, in
chunks of 256. Printed is the most that was resident meanwhile, less what the interpreter with its libraries had, the
weights and the keys and values of the prompt. Wanted: 200 MB at most.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from argosy_api.blocks import root_id
from argosy_api.params import SamplingParams
from argosy_worker.compute.attention.kv_types import KV_TYPES
from argosy_worker.compute.config import DecoderConfig
from argosy_worker.compute.quant.formats import QuantTensor, from_plain
from argosy_worker.core.blocks import BlockPool, blocks_of_window
from argosy_worker.core.facts import TokenizerFacts
from argosy_worker.core.request import Request
from argosy_worker.core.scheduler import Scheduler, SchedulerConfig
from argosy_worker.models.build import assemble
from argosy_worker.models.open_model import OpenModel
from argosy_worker.models.weights import shape_of

BLOCK, BUDGET, WANTED = 16, 256, 200e6
TOKENIZER = TokenizerFacts(
    tokenizer_json=b"{}", bos_token_id=None, eos_token_ids=(), add_bos=False, special_tokens={}, chat_template=""
)


class RandomWeights:
    """A source of random matrices in bf16."""

    def __init__(self, config: DecoderConfig) -> None:
        self.config = config
        self._random = torch.Generator().manual_seed(0)

    def has(self, role: str) -> bool:
        return not role.endswith(".bias")

    def matrix(self, role: str) -> QuantTensor:
        shape = shape_of(self.config, role)
        made = torch.empty(shape, dtype=torch.bfloat16).uniform_(-0.05, 0.05, generator=self._random)
        return from_plain(made)

    def vector(self, role: str) -> torch.Tensor:
        return torch.ones(shape_of(self.config, role))

    def held(self, role: str) -> QuantTensor:
        return self.matrix(role).of_numpy()

    def floats(self, role: str) -> npt.NDArray[np.float32]:
        return np.ones(shape_of(self.config, role), dtype=np.float32)

    def rope_factors(self) -> None:
        return None

    def formats(self) -> str:
        return "BF16"


def resident(what: str) -> int:
    """Bytes: `VmRSS` now, `VmHWM` the most since `forget`."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))


def forget() -> None:
    """Let the most that was resident be what is resident."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def child(tokens: int, kind: str, window: int) -> None:
    config = DecoderConfig(
        architecture="llama", hidden=2048, layers=2, heads=32, kv_heads=8, head_dim=64, ffn=8192, vocab_size=128_256,
        context_length=tokens + BLOCK, rms_eps=1e-5, rope_theta=5e5, tied=True, window=window,
    )  # fmt: skip
    torch.nn.functional.linear(torch.ones(2, 64), torch.ones(64, 64))  # the libraries' own buffers
    before = resident("VmRSS")
    source = RandomWeights(config)
    model = assemble(OpenModel(source, TOKENIZER, lambda: ()), kv_cache=kind, device="cpu", threads=2)
    weights = model.facts.weights_bytes  # packed; the embedding is the head, too, and kept beside that one
    loaded = resident("VmRSS")
    blocks = -(-(tokens + 1) // BLOCK)
    pool = BlockPool(blocks, window_blocks=blocks_of_window(model.facts.window, BLOCK))
    runner = model.make_runner(blocks, BLOCK)
    scheduler = Scheduler(SchedulerConfig(max_batch_tokens=BUDGET), pool)
    prompt = torch.randint(0, config.vocab_size, (tokens,), generator=torch.Generator().manual_seed(1)).tolist()
    scheduler.add(
        Request(
            request_id="r", prompt=prompt, params=SamplingParams(max_tokens=2, temperature=0), root=root_id("m"),
            block_size=BLOCK, arrival=0.0, max_model_len=tokens + BLOCK,
        )
    )  # fmt: skip
    forget()
    begun = time.monotonic()
    while scheduler.has_work:
        step = scheduler.schedule(0.0)
        scheduler.update(step, runner.launch(step.batch).result())
    print(
        json.dumps(
            {
                "before": before, "loaded": loaded, "weights": weights, "kv": blocks * model.kv_bytes_per_block(BLOCK),
                "peak": resident("VmHWM"), "seconds": time.monotonic() - begun,
            }
        )
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--kv", choices=("auto", *KV_TYPES), default="auto")
    parser.add_argument("--window", type=int, default=0, help="sliding window of all layers; 0 for none")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        child(asked.tokens, asked.kv, asked.window)
        return 0
    found = json.loads(
        subprocess.run([sys.executable, *sys.argv, "--child"], check=True, stdout=subprocess.PIPE).stdout
    )
    rest = found["peak"] - found["before"] - found["weights"] - found["kv"]
    for name in ("before", "weights", "loaded", "kv", "peak"):
        print(f"{name:>8} {found[name] / 1e6:9.0f} MB")
    print(f"    more {rest / 1e6:9.0f} MB (wanted: {WANTED / 1e6:.0f} at most); {found['seconds']:.0f} s")
    return int(rest > WANTED)


if __name__ == "__main__":
    sys.exit(main())

"""Run in a process of its own, under an environment that limits the libraries: the same rows alone and in company.

    python company.py int8|fp32

Builds one layer and a head of SmolLM2's shapes with random weights, as a model's loader does; prints JSON: whether all
rows are equal, what was said of exactness, the arithmetic's digest and the kernels.
"""

import json
import sys

import torch

from argosy_worker.compute.attention.cache import PagedKvCache
from argosy_worker.compute.attention.paged import PagedTorch
from argosy_worker.compute.attention.rows import choose
from argosy_worker.compute.config import DecoderConfig
from argosy_worker.compute.exactness import Check
from argosy_worker.compute.probe import on_threads, pattern
from argosy_worker.compute.quant.formats import from_plain
from argosy_worker.compute.quant.int8_cpu import sums_are_exact
from argosy_worker.compute.quant.isa import instruction_set
from argosy_worker.compute.quant.precision import resolve
from argosy_worker.compute.torch_model import attention_shape
from argosy_worker.core.batch import SequenceSlice
from argosy_worker.core.layout import make_layout
from argosy_worker.models.builder import Builder
from argosy_worker.models.weights import ALL, shape_of

BLOCK, THREADS = 16, 2
LENGTHS = (1, 2, 3, 5, 17, 31, 64, 65, 100, 127, 128, 129, 200)
CONFIG = DecoderConfig(
    architecture="llama", hidden=576, layers=1, heads=9, kv_heads=3, head_dim=64, ffn=1536, vocab_size=2000,
    context_length=512, rms_eps=1e-5, rope_theta=1e4,
)  # fmt: skip


class Weights:
    config = CONFIG

    def has(self, role):
        return not role.endswith(".bias")

    def matrix(self, role, rows=ALL, cols=ALL):
        return from_plain(pattern(*shape_of(CONFIG, role))[rows, cols] * 0.05)

    def vector(self, role, part=ALL):
        return pattern(1, *shape_of(CONFIG, role))[0][part] + 1


def main(compute):
    check = Check(THREADS)
    builder = Builder(
        Weights(), resolve("auto", None, compute, "cpu", integers=False), torch.device("cpu"), check, lambda *_: None
    )
    decoder = builder.decoder(CONFIG, builder.stack(CONFIG, range(1)))
    rows = check.attention(attention_shape(CONFIG, BLOCK))
    check.elementwise()
    tokens = [[(i * 7919 + 13 * n) % CONFIG.vocab_size for i in range(n + 1)] for n in LENGTHS]
    tables = [list(range(1 + 16 * i, 17 + 16 * i)) for i in range(len(LENGTHS))]

    def run(parts, attention, threads):
        slices = [
            SequenceSlice(
                request_id="", tokens=tokens[i][a:b], start=a, table=tables[i], sample_rows=range(0), params=None
            )
            for i, a, b in parts
        ]
        layout = make_layout(slices, BLOCK)
        attention.prepare(layout)
        flat = torch.tensor([t for s in slices for t in s.tokens])
        with on_threads(threads):
            hidden = decoder.hidden(flat, torch.from_numpy(layout.positions), attention)
            ends = hidden[torch.from_numpy(layout.cu_rows[1:] - 1).long()]
            return dict(zip([(i, b) for i, _, b in parts], decoder.logits(ends), strict=True))

    def fresh():
        cache = PagedKvCache(
            layers=1, blocks=16 * len(LENGTHS), block_size=BLOCK, kv_heads=3, head_dim=64, dtype=torch.float32,
            device=torch.device("cpu"),
        )  # fmt: skip
        return PagedTorch(cache, rows, CONFIG.layer_specs())

    alone = {}
    for i, n in enumerate(LENGTHS):
        attention = fresh()
        alone.update(run([(i, 0, n)], attention, 1))
        alone.update(run([(i, n, n + 1)], attention, 1))
    same = True
    for chunk in (7, 40, 1000):
        attention = fresh()
        for begin in range(0, max(LENGTHS), chunk):
            parts = [(i, begin, min(begin + chunk, n)) for i, n in enumerate(LENGTHS) if begin < n]
            found = run(parts, attention, THREADS)
            same &= all(torch.equal(row, alone[key]) for key, row in found.items() if key in alone)
        found = run([(i, n, n + 1) for i, n in enumerate(LENGTHS)], attention, THREADS)
        same &= all(torch.equal(row, alone[key]) for key, row in found.items())
    print(
        json.dumps(
            {
                "same": bool(same), "exactness": check.verdict, "digest": check.digest.hex(), "rows": rows.multiple,
                "kernels": builder.reports, "instruction_set": instruction_set(), "integers": sums_are_exact(),
                "chosen": choose(attention_shape(CONFIG, BLOCK), THREADS)[0] == rows,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    with torch.inference_mode():
        main(sys.argv[1])

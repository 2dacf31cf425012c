"""The engine on a GPU, with transformers beside it: random weights of the Llama-3.2-1B shape, bf16, one run.

    python benchmarks/gpu.py [--layers 16] [--rounds 3]          needs torch with CUDA, transformers, safetensors
    python benchmarks/gpu.py --device cpu --layers 2 --rounds 1  the same path in fp32, to see that it runs

Both sides compute the same weights eagerly: prefill of one prompt, then decode steps with 1, 16 and 64 sequences of 512
tokens context. The peer is transformers' LlamaForCausalLM with SDPA and a cache that is as long for all sequences,
which is its best case: ours is paged and takes sequences of any length.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from argosy_api.params import SamplingParams
from argosy_worker.core.batch import SequenceSlice, StepBatch
from argosy_worker.models import load_model

CONTEXT, BLOCK, STEPS = 512, 16, 20
GREEDY = SamplingParams(temperature=0, max_tokens=1)


def checkpoint(folder: Path, layers: int, device: str) -> LlamaForCausalLM:
    """Write a random bf16 model as safetensors, and return the peer that holds it (in fp32 on a CPU)."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=layers, num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64, vocab_size=32_768, max_position_embeddings=4096, rms_norm_eps=1e-5, tie_word_embeddings=True,
    )  # fmt: skip
    made = LlamaForCausalLM(config).to(torch.bfloat16)
    names = {k: v.contiguous() for k, v in made.state_dict().items() if k != "lm_head.weight"}
    save_file(names, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config.to_dict()))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    return LlamaForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()  # .to(bf16) would round its rope


def synchronize() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(call: Callable[[], object], count: int) -> float:
    """Median seconds of a call, the device idle before and after."""
    times = []
    for _ in range(count):
        synchronize()
        begun = time.perf_counter()
        call()
        synchronize()
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


class Ours:
    """The worker's runner."""

    def __init__(self, folder: Path, device: str) -> None:
        compute = "bf16" if device == "cuda" else "fp32"
        model = load_model(folder, compute=compute, device=device, threads=0, progress=lambda *_: None)
        print("kernels:", *(f"\n  {role}: {choice}" for role, choice in model.kernels.items()))
        self.per_sequence = (CONTEXT + 64) // BLOCK
        self.runner = model.make_runner(64 * self.per_sequence + 64, BLOCK)

    def slices(self, count: int, tokens: list[int], start: int) -> StepBatch:
        tables = [list(range(1 + i * self.per_sequence, 1 + (i + 1) * self.per_sequence)) for i in range(count)]
        return StepBatch(
            [
                SequenceSlice(
                    request_id=str(i),
                    tokens=tokens,
                    start=start,
                    table=t,
                    sample_rows=range(len(tokens) - 1, len(tokens)),
                    params=GREEDY,
                )
                for i, t in enumerate(tables)
            ]
        )

    def prefill(self, tokens: list[int]) -> int:
        [whole] = self.slices(1, tokens, 0).slices
        table = range(1, 1 + -(-len(tokens) // BLOCK))
        return self.runner.launch(StepBatch([replace(whole, table=table)])).result()[0].tokens[0]

    def decode(self, count: int) -> Callable[[], object]:
        self.runner.launch(self.slices(count, [7] * CONTEXT, 0)).result()
        batch = self.slices(count, [5], CONTEXT)
        return lambda: self.runner.launch(batch).result()


class Peer:
    """transformers, eagerly."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.model = model

    @torch.inference_mode()
    def prefill(self, tokens: list[int]) -> int:
        logits = self.model(torch.tensor([tokens], device=self.model.device), logits_to_keep=1).logits
        return int(logits[0, -1].argmax())

    def decode(self, count: int) -> Callable[[], object]:
        with torch.inference_mode():
            past = self.model(
                torch.full((count, CONTEXT), 7, device=self.model.device), logits_to_keep=1
            ).past_key_values
        token = torch.full((count, 1), 5, device=self.model.device)

        @torch.inference_mode()
        def step() -> list[int]:
            logits = self.model(token, past_key_values=past, logits_to_keep=1).logits
            return [int(t) for t in logits[:, -1].argmax(-1)]

        return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    options = parser.parse_args()
    print(torch.cuda.get_device_name() if options.device == "cuda" else "CPU", "torch", torch.__version__)
    with tempfile.TemporaryDirectory() as name:
        peer = Peer(checkpoint(Path(name), options.layers, options.device))
        ours = Ours(Path(name), options.device)
    prompt = [(i * 7919) % 32_000 for i in range(2048)]
    agree = [ours.prefill(prompt[:n]) == peer.prefill(prompt[:n]) for n in (3, 64, 200, 511, 1024, 2048)]
    print(f"greedy token after prompts of 3 to 2048 tokens equals the peer's: {sum(agree)} of {len(agree)}")
    for side in (ours, peer):
        side.prefill(prompt)
    rates = {"ours": [], "peer": []}
    for _ in range(options.rounds):
        rates["ours"].append(2048 / timed(lambda: ours.prefill(prompt), 3))
        rates["peer"].append(2048 / timed(lambda: peer.prefill(prompt), 3))
    report("prefill of 2048 tokens, tokens/s", rates)
    for count in (1, 16, 64):
        rates = {"ours": [], "peer": []}
        for _ in range(options.rounds):
            for key, side in (("ours", ours), ("peer", peer)):
                step = side.decode(count)
                step()
                rates[key].append(count / timed(step, STEPS))
        report(f"decode with {count} sequences, tokens/s", rates)
    if options.device == "cuda":
        print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB (both sides)")


def report(name: str, rates: dict[str, list[float]]) -> None:
    ours, peer = (statistics.median(rates[k]) for k in ("ours", "peer"))
    print(f"{name:40s} argosy {ours:10.0f}   transformers {peer:10.0f}   ratio {ours / peer:.2f}", flush=True)


if __name__ == "__main__":
    main()

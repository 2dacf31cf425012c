"""The files of SmolLM2 in llama.cpp, and its folders in transformers, give the perplexity that they give here.

Minutes on a small machine, and llama.cpp (xllamacpp) is needed: make test-peers.
"""

import json
import math
import os
import urllib.request

import pytest
import torch

from argosy_worker.evaluate.score import score
from argosy_worker.evaluate.text import own_text
from argosy_worker.models import load_model
from argosy_worker.quantize.command import Job, quantize

pytestmark = [
    pytest.mark.skipif("ARGOSY_PEERS" not in os.environ, reason="takes minutes: make test-peers"),
    pytest.mark.timeout(1800),
]
LENGTH, SEQUENCES = 128, 4


def load(path):
    return load_model(path, weights="none", compute="fp32", device="cpu", threads=2)


@pytest.fixture(scope="module")
def texts(smollm_path):
    return own_text(load(smollm_path), sequences=SEQUENCES, length=LENGTH, seed=7, progress=lambda *_: None)


def llama_cpp_logprobs(path, texts):
    """Each token is asked for after all before it, and forced by a bias; what is told is of the raw logits.

    NaN where a token ends the answer: nothing is told of it.
    """
    xllamacpp = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel, params.n_gpu_layers = 2 * LENGTH, 1, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup, params.verbosity = False, 0
    server = xllamacpp.Server(params)
    found = []
    for text in texts:
        for at in range(1, len(text)):
            body = {
                "prompt": text[:at], "n_predict": 1, "temperature": 0, "n_probs": 1, "cache_prompt": True,
                "logit_bias": [[text[at], 1e6]],
            }  # fmt: skip
            request = urllib.request.Request(
                f"{server.listening_address}/completion",
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=300) as answer:
                told = json.load(answer).get("completion_probabilities", [])
            assert [one["id"] for one in told] in ([text[at]], [])
            found.append(told[0]["logprob"] if told else math.nan)
    return torch.tensor(found)


def perplexity(logprobs):
    return math.exp(-logprobs.double().mean().item())


@pytest.mark.parametrize("to", ["f32", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "q4_k", "q6_k"])
def test_llama_cpp(smollm_path, texts, tmp_path, to):
    """The perplexity of a file's weights is the same within 0.1 %, and llama.cpp computes with the weights that we read.

    llama.cpp rounds a layer's inputs to 8 bits before it multiplies weights in blocks: with 135 million parameters that
    moves the log-probability of a single token by 0.07 in the mean, so some hundred tokens say nothing about 0.1 %. So
    it is given the file's weights twice: in blocks, where the differences have no bias (their mean is within four
    standard errors of 0) and are small beside what another rounding of the weights changes (0.26), and as floats.
    """
    out, floats = tmp_path / "out.gguf", tmp_path / "floats.gguf"
    quantize(Job(source=smollm_path, to=to, out=out, check=False, method="round", threads=2))
    ours, in_blocks = score(load(out), texts).logprobs, llama_cpp_logprobs(out, texts)
    in_floats = in_blocks
    if to != "f32":
        quantize(Job(source=out, to="f32", out=floats, check=False, threads=2))
        in_floats = llama_cpp_logprobs(floats, texts)
        floats.unlink()
    told = in_blocks.isfinite() & in_floats.isfinite()
    assert told.sum() > 0.9 * len(told)
    ours, in_blocks, in_floats = ours[told], in_blocks[told], in_floats[told]
    change, noise = (perplexity(theirs) / perplexity(ours) - 1 for theirs in (in_floats, in_blocks))
    moved = in_blocks - ours
    print(
        f"{to}: {len(ours)} tokens, here {perplexity(ours):.4f}; llama.cpp {change:+.4%} with these weights as floats, "
        f"{noise:+.4%} in blocks (a token by {moved.abs().mean():.4f})"
    )
    assert abs(change) <= 0.001
    if to != "f32":
        assert moved.mean().abs() <= 4 * moved.std() / math.sqrt(len(moved))
        assert moved.abs().mean() <= 0.12


@pytest.mark.parametrize("to", ["f16", "int8", "int4", "fp8"])
def test_transformers(smollm_path, texts, tmp_path, to):
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    quantize(Job(source=smollm_path, to=to, out=out, check=False, method="round", threads=2))
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    theirs = []
    with torch.inference_mode():
        for text in texts:
            scores = model(torch.tensor([text])).logits[0].log_softmax(-1)
            theirs.append(scores[:-1].gather(1, torch.tensor(text[1:])[:, None])[:, 0])
    ours = score(load(out), texts).logprobs
    change = perplexity(torch.cat(theirs)) / perplexity(ours) - 1
    print(f"{to}: here {perplexity(ours):.4f}, transformers {perplexity(torch.cat(theirs)):.4f}, {change:+.4%}")
    assert abs(change) <= 0.001


@pytest.mark.parametrize(("to", "most"), [("int8", 0.005), ("q8_0", 0.005)])
def test_eight_bits_lose_little(smollm_path, tmp_path, to, most):
    """Of the perplexity in fp32."""
    before, after = quantize(
        Job(source=smollm_path, to=to, out=tmp_path / f"out{'.gguf' * (to == 'q8_0')}", threads=2)
    ).rows
    print(f"{to}: {after.perplexity / before.perplexity - 1:+.3%}, here")
    assert after.perplexity / before.perplexity - 1 <= most


@pytest.mark.parametrize("to", ["int4", "q4_0"])
def test_four_bits_lose_half_of_what_plain_rounding_loses(smollm_path, tmp_path, to):
    """On text that was not calibrated with, in groups of 32."""
    out = tmp_path / f"out{'.gguf' * (to == 'q4_0')}"
    before, plain, after = quantize(Job(source=smollm_path, to=to, out=out, threads=2)).rows
    lost, lost_plainly = (row.perplexity / before.perplexity - 1 for row in (after, plain))
    print(f"{to}: {lost:+.2%}, plain rounding {lost_plainly:+.2%}, here")
    assert lost <= lost_plainly / 2

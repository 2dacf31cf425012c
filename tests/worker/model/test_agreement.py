"""The decoder agrees with the transformers library on the same dequantized weights (`make test-agreement`: over more text)."""

import argparse
import decimal
import difflib
import doctest
import inspect
import logging.config
import statistics
import unittest.mock
from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM
from whole import WHOLE

from argosy_api.params import SamplingParams
from argosy_worker.compute.attention.kv_types import KV_TYPES
from argosy_worker.core.batch import SequenceSlice, StepBatch
from argosy_worker.models.gguf import GgufFile
from argosy_worker.models.gguf_weights import GgufWeights

WINDOW = 512
FIRST = 2560
TOKENS = 5120 if WHOLE else FIRST
PROMPTS = [
    "The capital of France is", "Once upon a time there was", "def fibonacci(n):\n", "Water boils at", "The three primary colours are",
    "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n", "To be, or not to be,", "In 1969,", "import numpy as np\n", "My favourite recipe:",
    "The mitochondria is", "SELECT name FROM users", "Dear Sir or Madam,", "1, 2, 3, 4,", "The sun rises in the", "Breaking news:", "A haiku about autumn:\n",
    "<|im_start|>user\nCount to five.<|im_end|>\n<|im_start|>assistant\n", "She opened the door and", "Der Hund ist", "Photosynthesis is the process",
]  # fmt: skip
_LAYER = {
    "self_attn.q_proj": "q", "self_attn.k_proj": "k", "self_attn.v_proj": "v", "self_attn.o_proj": "o",
    "mlp.gate_proj": "gate", "mlp.up_proj": "up", "mlp.down_proj": "down",
}  # fmt: skip


@pytest.fixture(scope="module")
def reference(smollm_path):
    """transformers' model with the weights that our reader dequantizes."""
    with GgufFile(smollm_path) as file:
        source = GgufWeights(file)
        c = source.config
        config = LlamaConfig(
            vocab_size=c.vocab_size, hidden_size=c.hidden, intermediate_size=c.ffn, num_hidden_layers=c.layers,
            num_attention_heads=c.heads, num_key_value_heads=c.kv_heads, head_dim=c.head_dim, max_position_embeddings=c.context_length,
            rms_norm_eps=c.rms_eps, rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta}, tie_word_embeddings=True,
        )  # fmt: skip
        model = LlamaForCausalLM(config).eval()
        state = {"model.embed_tokens.weight": source.matrix("embed").dequantize()}
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
        state["model.norm.weight"] = source.vector("final_norm")
        for i in range(c.layers):
            for theirs, ours in _LAYER.items():
                state[f"model.layers.{i}.{theirs}.weight"] = source.matrix(f"layers.{i}.{ours}").dequantize()
            state[f"model.layers.{i}.input_layernorm.weight"] = source.vector(f"layers.{i}.attn_norm")
            state[f"model.layers.{i}.post_attention_layernorm.weight"] = source.vector(f"layers.{i}.mlp_norm")
    model.load_state_dict(state, strict=True)
    return model


@pytest.fixture(scope="module")
def tokenizer(fp32_model):
    return Tokenizer.from_str(fp32_model.facts.tokenizer_json.decode())


@pytest.fixture(scope="module")
def text(tokenizer):
    """2,560 tokens of English about programming, or 5,120: documentation of the standard library."""
    things = (argparse, decimal, difflib, doctest, logging.config, statistics, unittest.mock)
    docs = [inspect.getdoc(thing) or "" for thing in things]
    docs += [
        inspect.getdoc(value) or ""
        for thing in things
        for _, value in sorted(vars(thing).items())
        if inspect.isfunction(value) or inspect.isclass(value)
    ]
    ids = tokenizer.encode("\n\n".join(docs)).ids[:TOKENS]
    assert len(ids) == TOKENS
    return ids


@pytest.fixture(scope="module")
def reference_logprobs(reference, text):
    found = []
    with torch.inference_mode():
        for begin in range(0, TOKENS, WINDOW):
            window = torch.tensor(text[begin : begin + WINDOW])
            scores = reference(window[None]).logits[0].log_softmax(-1)
            found.append(scores[:-1].gather(1, window[1:, None])[:, 0])
    return torch.cat(found)


def prompt_logprobs(model, text):
    runner = model.make_runner(WINDOW // 16, 16)
    params = SamplingParams(prompt_logprobs=0)
    found = []
    for begin in range(0, len(text), WINDOW):
        window = text[begin : begin + WINDOW]
        for at in (0, 256):
            part = SequenceSlice(
                request_id="r", tokens=window[at : at + 256], start=at, table=range(1, WINDOW // 16 + 1), sample_rows=range(0),
                params=params, prompt_targets=window[at + 1 : at + 257],
            )  # fmt: skip
            found += [score.logprob for score in runner.launch(StepBatch([part])).result()[0].prompt_logprobs]
    return torch.tensor(found)


@pytest.mark.parametrize(("compute", "delta", "ratio"), [("fp32", 0.005, 0.001), ("int8", 0.07, 0.005)])
def test_log_probabilities_and_perplexity(  # noqa: PLR0917  # parameters and fixtures
    compute, delta, ratio, request, text, reference_logprobs
):
    """Teacher-forced log-probabilities of all tokens, and the perplexity, are those of transformers."""
    ours = prompt_logprobs(request.getfixturevalue(f"{compute}_model"), text)
    assert ours.shape == reference_logprobs.shape
    difference = (ours - reference_logprobs).abs().mean().item()
    change = (reference_logprobs.mean() - ours.mean()).exp().item() - 1
    print(
        f"{compute}: mean difference {difference:.5f}, perplexity {reference_logprobs.mean().neg().exp():.3f} {change:+.3%}"
    )
    assert difference <= delta
    assert abs(change) <= ratio


@pytest.mark.parametrize(("kind", "most"), [("int8", 0.002), ("fp8", 0.01)])
def test_perplexity_with_smaller_keys_and_values(fp32_model, text, reference_logprobs, kind, most):
    """On the first 2,560 tokens int8 keys and values cost 0.08 % of the perplexity, fp8 0.24 %."""
    found = prompt_logprobs(replace(fp32_model, kv_type=KV_TYPES[kind]), text[:FIRST])
    change = (reference_logprobs[: len(found)].mean() - found.mean()).exp().item() - 1
    print(f"{kind} keys and values: perplexity {change:+.3%}")
    assert abs(change) <= most


def test_greedy_tokens(fp32_model, reference, tokenizer, make_job, run_jobs):
    """32 greedy tokens after each of 21 prompts are transformers'; where one is not, its two best logits are within rounding."""
    jobs = [
        make_job(f"r{i}", tokenizer.encode(p).ids, SamplingParams(max_tokens=32, temperature=0))
        for i, p in enumerate(PROMPTS)
    ]
    outputs = run_jobs(fp32_model.make_runner(200, 16), jobs, chunk=1000)
    for job, answer in zip(jobs, outputs, strict=True):
        tokens = [o.tokens[0] for o in answer]
        with torch.inference_mode():
            # all tokens so far being equal, the reference's next token is its best after the same text
            logits = reference(torch.tensor([[*job.prompt, *tokens]])).logits[0, len(job.prompt) - 1 : -1]
        best = logits.argmax(-1)
        for i, token in enumerate(tokens):
            if best[i] != token:
                assert logits[i, best[i]] - logits[i, token] < 1e-3, (job.name, i)
                break

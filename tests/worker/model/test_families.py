"""Each family, on small random weights in fp32: transformers' logits, from safetensors and from GGUF; rows alone are rows in company."""

import dataclasses
import functools

import pytest
import small_models
import torch

from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.compute.config import Experts
from argosy_worker.compute.mlp import route
from argosy_worker.compute.rope_spec import FactorRope
from argosy_worker.core.batch import SequenceSlice
from argosy_worker.core.layout import make_layout
from argosy_worker.models import load_model
from argosy_worker.models.families import FAMILIES

PROMPT = torch.randint(3, small_models.VOCAB, (200,), generator=torch.Generator().manual_seed(2)).tolist()
TOKENIZER = {
    "tokenizer_model": "gpt2", "tokenizer_pre": "gpt-2", "token_list": [*(chr(33 + i) for i in range(90)), "ab"], "token_merges": ["a b"],
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    @functools.cache
    def make(name):
        made = small_models.model(name)
        folder = tmp_path_factory.mktemp(name)
        made.save_pretrained(folder)
        small_models.write_tokenizer(folder)
        if name not in small_models.NO_GGUF:
            small_models.write_gguf(name, made, folder.parent / f"{name}.gguf", TOKENIZER)
        return made, folder, folder.parent / f"{name}.gguf"

    return make


def logits(loaded, prompt, *, chunks=(200,)):
    """fp32 [len(prompt), vocab], the prompt computed in chunks of these sizes."""
    runner, found, at = loaded.make_runner(32, 16), [], 0
    while at < len(prompt):
        end = min(at + chunks[len(found) % len(chunks)], len(prompt))
        part = SequenceSlice(request_id="r", tokens=prompt[at:end], start=at, table=range(1, 33), sample_rows=range(0), params=None)  # fmt: skip
        layout = make_layout([part], 16)
        runner._attention.prepare(layout)
        with torch.inference_mode():
            hidden = loaded.decoder.hidden(torch.tensor(part.tokens), torch.from_numpy(layout.positions), runner._attention)  # fmt: skip
            found.append(loaded.decoder.logits(hidden))
        at = end
    return torch.cat(found)


def error(ours, theirs):
    """The largest relative error of a row."""
    return ((ours - theirs).norm(dim=-1) / theirs.norm(dim=-1)).max().item()


def theirs(made, prompt):
    with torch.inference_mode():
        return made(torch.tensor([prompt])).logits[0]


@pytest.mark.parametrize("name", small_models.FAMILIES)
def test_logits_are_those_of_transformers(files, name):
    made, folder, _ = files(name)
    loaded = load_model(folder, compute="fp32", device="cpu", threads=1)
    assert loaded.facts.architecture == made.config.model_type
    assert error(logits(loaded, PROMPT), theirs(made, PROMPT)) <= 1e-4


@pytest.mark.parametrize("name", [name for name in small_models.FAMILIES if name not in small_models.NO_GGUF])
def test_from_gguf_come_the_same_logits(files, name):
    made, folder, path = files(name)
    loaded = load_model(path, compute="fp32", device="cpu", threads=1)
    ours = logits(loaded, PROMPT)
    assert error(ours, theirs(made, PROMPT)) <= 1e-4
    assert error(ours, logits(load_model(folder, compute="fp32", device="cpu", threads=1), PROMPT)) <= 1e-5


@pytest.mark.parametrize("name", ["mixtral", "smollm3", "gemma2", "gemma3", "phi3", "olmo2", "granite", "gpt-oss"])
def test_chunks_do_not_matter(files, name):
    """Of experts, too: whoever shares a step, a row goes through its own in its own order."""
    _, folder, _ = files(name)
    loaded = load_model(folder, compute="fp32", device="cpu", threads=2)
    whole = logits(loaded, PROMPT)
    for chunks in ((1, 7, 16), (64,), (37, 1)):
        assert torch.equal(logits(loaded, PROMPT, chunks=chunks), whole), chunks


@pytest.mark.parametrize("suffix", ["folder", "gguf"])
def test_longrope_keeps_its_short_factors_where_sequences_stay_short(files, suffix):
    """transformers takes the long ones when a sequence gets longer than the original context; we when one may."""
    made, folder, path = files("phi3")
    short = load_model(
        folder if suffix == "folder" else path, compute="fp32", device="cpu", threads=1, max_model_len=128
    )
    assert short.facts.context_length == 128
    assert error(logits(short, PROMPT[:128]), theirs(made, PROMPT[:128])) <= 1e-4
    (rope,) = short.config.ropes
    assert isinstance(rope.scaling, FactorRope)
    assert dataclasses.astuple(rope.scaling)[0] == pytest.approx(small_models.LONG["short_factor"])


def test_int8_and_experts(files):
    """The router is computed in floats whatever the rest is; the answers are near."""
    made, folder, _ = files("mixtral")
    loaded = load_model(folder, compute="auto", device="cpu", threads=1)
    assert "fp32" in loaded.kernels["router"]
    ours, wanted = logits(loaded, PROMPT), theirs(made, PROMPT)
    errors = (ours - wanted).norm(dim=-1) / wanted.norm(dim=-1)
    assert errors.median() <= 0.1  # where hidden states are rounded, single rows take other experts


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"more": ["blk.0.attn_norm_2.weight"]}, ModelUnsupportedError),  # a part of the model that would be left out
        ({"more": ["blk.1.post_attention_norm.weight"]}, ModelUnsupportedError),  # known, but not of this family
        ({"without": ["blk.1.ffn_up.weight"]}, ModelInvalidError),
        ({"without": ["blk.0.attn_k.bias"]}, ModelInvalidError),
    ],
)
def test_tensors_too_many_or_too_few_are_named(files, tmp_path, change, error):
    made, _, _ = files("llama-biases")
    small_models.write_gguf("llama-biases", made, tmp_path / "x.gguf", TOKENIZER, **change)
    (name,) = next(iter(change.values()))
    with pytest.raises(error, match=name.replace(".", r"\.")):
        load_model(tmp_path / "x.gguf", compute="fp32", device="cpu")


@pytest.mark.parametrize("family", [f.model_type for f in FAMILIES])
def test_every_family_is_checked(family):
    assert family in {config.model_type for _, config, _ in small_models.FAMILIES.values()}


def test_routing_takes_the_smaller_number_of_equals():
    scores = torch.tensor([[1.0, 3.0, 3.0, -2.0, 3.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    chosen, weights = route(scores, Experts(5, 2))
    assert chosen.tolist() == [[1, 2], [0, 1]]
    assert weights.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    chosen, weights = route(scores, Experts(5, 2, normalized=False))
    assert torch.allclose(weights, scores.softmax(-1).gather(1, chosen))

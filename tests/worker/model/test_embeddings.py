"""Embeddings are transformers' hidden states, pooled as the model's files say; however the prompt is cut, and in company."""

import asyncio
import json

import grpc
import pytest
import tiny_llama
import torch

from argosy_worker.compute.native import library
from argosy_worker.compute.native.model import NativeModel
from argosy_worker.models import load_model
from argosy_worker.models.pooling import of_folder

PROMPTS = [tiny_llama.PROMPT[i : i + n] for i, n in enumerate((1, 2, 17, 40, 64, 90))]
MODES = {"mean": "mean_tokens", "last": "lasttoken", "cls": "cls_token"}


def say(folder, mode):
    """As sentence-transformers writes it."""
    (folder / "1_Pooling").mkdir(exist_ok=True)
    said = {f"pooling_mode_{name}": key == mode for key, name in MODES.items()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 64, **said}))


def theirs(small, prompt, mode):
    with torch.inference_mode():
        rows = small.model(torch.tensor([prompt])).last_hidden_state[0]
    vector = {"mean": rows.mean(0), "last": rows[-1], "cls": rows[0]}[mode]
    return vector / vector.norm()


async def embedded(rig, prompt, name="r"):
    request = rig.request(prompt, name, max_tokens=1, ignore_eos=True)
    request.embed = True
    chunks = [chunk async for chunk in rig.stub.Generate(request)]
    return list(chunks[0].embedding)


@pytest.mark.parametrize("mode", MODES)
async def test_they_are_transformers_in_fp32(make_rig, tmp_path, mode):
    small = tiny_llama.write(tmp_path)
    say(tmp_path, mode)
    loaded = load_model(tmp_path, compute="fp32", device="cpu", threads=1)
    assert (loaded.facts.pooling, loaded.facts.embedding_size) == (mode, 64)
    async with make_rig(model=loaded, max_model_len=256, max_batch_tokens=256) as rig:
        whole = [await embedded(rig, prompt) for prompt in PROMPTS]
        again = [await embedded(rig, prompt) for prompt in PROMPTS]  # with what is cached by now
    for prompt, found in zip(PROMPTS, whole, strict=True):
        assert (torch.tensor(found) - theirs(small, prompt, mode)).abs().max() <= 1e-5
    assert again == whole
    async with make_rig(model=loaded, max_model_len=256, max_batch_tokens=16) as rig:
        together = [embedded(rig, prompt, str(i)) for i, prompt in enumerate(PROMPTS)]
        answers = [rig.generate(prompt, f"a{i}", max_tokens=5) for i, prompt in enumerate(PROMPTS)]
        found = await asyncio.gather(*together, *answers)
    assert found[: len(PROMPTS)] == whole, "in chunks, beside others"


@pytest.mark.parametrize("mode", MODES)
async def test_native_kernels_give_nearly_the_same(make_rig, tmp_path, mode):
    """Their weights and activations have 8 bits."""
    if not library.kernels():
        pytest.skip("no native kernels here")
    small = tiny_llama.write(tmp_path, num_attention_heads=2, num_key_value_heads=1)
    say(tmp_path, mode)
    loaded = load_model(tmp_path, device="cpu", threads=1)
    assert isinstance(loaded, NativeModel)
    async with make_rig(model=loaded, max_model_len=256, max_batch_tokens=256) as rig:
        whole = [await embedded(rig, prompt) for prompt in PROMPTS]
    for prompt, found in zip(PROMPTS, whole, strict=True):
        assert torch.dot(torch.tensor(found), theirs(small, prompt, mode)) > 0.995
        assert torch.tensor(found).norm() == pytest.approx(1, abs=1e-6)
    async with make_rig(model=loaded, max_model_len=256, max_batch_tokens=16) as rig:
        found = await asyncio.gather(*(embedded(rig, prompt, str(i)) for i, prompt in enumerate(PROMPTS)))
    assert found == whole


async def test_a_simulated_model_gives_none(make_rig):
    async with make_rig() as rig:
        request = rig.request([1, 2, 3], max_tokens=1)
        request.embed = True
        code, details = await rig.status_of(request)
    assert (code, details.partition(":")[0]) == (grpc.StatusCode.INVALID_ARGUMENT, "embed")


def test_what_files_say_of_pooling(tmp_path):
    """Nothing: as decoders have it. What is not computed here gives no embeddings, rather than other ones."""
    assert of_folder(tmp_path) == "last"
    say(tmp_path, "mean")
    assert of_folder(tmp_path) == "mean"
    modules = tmp_path / "modules.json"
    kinds = ["sentence_transformers.models.Transformer", "sentence_transformers.models.Pooling"]
    modules.write_text(json.dumps([{"type": kind} for kind in kinds]))
    assert of_folder(tmp_path) == "mean"
    modules.write_text(json.dumps([{"type": kind} for kind in [*kinds, "sentence_transformers.models.Dense"]]))
    assert of_folder(tmp_path) == ""
    modules.unlink()
    path = tmp_path / "1_Pooling" / "config.json"
    for said in (
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
        {},
    ):
        path.write_text(json.dumps(said))
        assert of_folder(tmp_path) == ""

"""Families whose layers differ from Llama's, on the native kernels alone: near transformers, and the same however they are cut."""

import shutil

import numpy as np
import pytest
import small_models
import torch

from argosy_worker.compute.native import library
from argosy_worker.compute.native.model import NativeModel
from argosy_worker.core.batch import SequenceSlice
from argosy_worker.models import load_model

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="there was no compiler to build the kernels with")
PROMPT = torch.randint(3, small_models.VOCAB, (120,), generator=torch.Generator().manual_seed(3)).tolist()
TOKENIZER = {
    "tokenizer_model": "gpt2", "tokenizer_pre": "gpt-2", "token_list": [*(chr(33 + i) for i in range(90)), "ab"], "token_merges": ["a b"],
}  # fmt: skip
NAMES = ["qwen3", "gemma2", "gemma3", "olmo2", "granite", "smollm3", "llama-llama3", "llama-biases"]


@pytest.fixture(scope="module", params=NAMES)
def family(request, tmp_path_factory):
    made = small_models.model(request.param)
    path = tmp_path_factory.mktemp("family") / f"{request.param}.gguf"
    small_models.write_gguf(request.param, made, path, TOKENIZER)
    return made, path


def rows(runner, chunks, table=range(1, 33)):
    """Logits of all rows of the prompt, computed in chunks of these sizes."""
    found, at = [], 0
    while at < len(PROMPT):
        end = min(at + chunks[len(found) % len(chunks)], len(PROMPT))
        part = SequenceSlice(
            request_id="r", tokens=PROMPT[at:end], start=at, table=list(table), sample_rows=range(0), params=None
        )
        found.append(runner._logits(runner._hidden([part], end - at)).copy())
        at = end
    return np.concatenate(found)


@pytest.mark.parametrize("kv", ["fp32", "int8"])
def test_they_compute_what_transformers_does_without_torch(family, kv):
    """But for weights and activations of 8 bits: an operation that is missing, or at another place, is far off."""
    made, path = family
    loaded = load_model(path, device="cpu", threads=2, kv_cache=kv)
    assert isinstance(loaded, NativeModel)
    runner = loaded.make_runner(40, 16)
    whole = rows(runner, (len(PROMPT),))
    with torch.inference_mode():
        theirs = made(torch.tensor([PROMPT])).logits[0].numpy()
    errors = np.linalg.norm(whole - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
    assert np.median(errors) <= 0.08
    for chunks in ((1, 7, 16), (64,), (37, 1)):
        assert rows(runner, chunks).tobytes() == whole.tobytes(), chunks


def test_instruction_sets_and_threads_do_not_matter(family, monkeypatch):
    _, path = family
    found = set()
    for name in [name for name in library.NAMES if library.load().argosy_kernels(name.encode())]:
        monkeypatch.setenv(library.ISA, name)
        for threads in (1, 2):
            runner = load_model(path, device="cpu", threads=threads, kv_cache="fp16").make_runner(40, 16)
            found.add(rows(runner, (50,)).tobytes())
    assert len(found) == 1

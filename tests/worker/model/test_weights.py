"""Ranges of a model's weights are what the whole has there; files that change under a reader give errors."""

import json
import random
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.models.gguf import GgufFile
from argosy_worker.models.gguf_weights import GgufWeights
from argosy_worker.models.hf_config import read_config
from argosy_worker.models.hf_file import SafetensorsFile
from argosy_worker.models.hf_weights import SafetensorsWeights
from argosy_worker.models.weights import shape_of

SHAPE = {
    "model_type": "llama", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A checkpoint's weights, with random numbers."""
    from safetensors.numpy import save_file

    config, rng = read_config(SHAPE), np.random.default_rng(0)
    names = {
        "embed": "model.embed_tokens", "head": "lm_head", "layers.0.q": "model.layers.0.self_attn.q_proj",
        "layers.0.down": "model.layers.0.mlp.down_proj", "final_norm": "model.norm",
    }  # fmt: skip
    tensors = {
        f"{name}.weight": rng.standard_normal(shape_of(config, role), dtype=np.float32) for role, name in names.items()
    }
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def check_ranges(source, role, block):
    whole = source.matrix(role).dequantize()
    rows, cols = whole.shape
    rng = random.Random(1)
    for _ in range(12):
        a, b = sorted(rng.sample(range(rows + 1), 2))
        c, d = (block * n for n in sorted(rng.sample(range(cols // block + 1), 2)))
        assert torch.equal(source.matrix(role, slice(a, b)).dequantize(), whole[a:b])
        assert torch.equal(source.matrix(role, slice(a, b), slice(c, d)).dequantize(), whole[a:b, c:d])
        assert torch.equal(source.matrix(role, cols=slice(c, d)).dequantize(), whole[:, c:d])


@pytest.mark.parametrize("role", ["embed", "layers.0.q", "layers.0.down"])
def test_ranges_of_safetensors(folder, role):
    with ExitStack() as stack:
        source = SafetensorsWeights(folder, read_config(SHAPE), stack)
        check_ranges(source, role, 1)
        assert torch.equal(source.vector("final_norm", slice(3, 9)), source.vector("final_norm")[3:9])


@pytest.mark.parametrize("role", ["layers.2.q", "layers.2.k", "layers.2.v", "layers.0.down"])
def test_ranges_of_gguf(smollm_path, role):
    """Also of q and k, whose rows lie in another order in the file."""
    with GgufFile(smollm_path) as file:
        source = GgufWeights(file)
        check_ranges(source, role, 32)
        with pytest.raises(ModelUnsupportedError, match="cut blocks of 32 Q4_1"):
            source.matrix(role, cols=slice(0, 40))


def test_only_the_rows_asked_for_are_read(smollm_path, monkeypatch):
    with GgufFile(smollm_path) as file:
        source, read = GgufWeights(file), []
        real = file._read_at
        monkeypatch.setattr(file, "_read_at", lambda at, size, what: read.append(size) or real(at, size, what))
        source.matrix("layers.0.v", slice(10, 12))
        assert read == [2 * 576 // 32 * 20]


@pytest.mark.parametrize("part", [slice(3, 3), slice(0, 65), slice(5, 3), slice(-1, 3), slice(0, 6, 2)])
def test_odd_ranges_are_mistakes(folder, part):
    with ExitStack() as stack, pytest.raises(ValueError, match="no range of 0 to 64"):
        SafetensorsWeights(folder, read_config(SHAPE), stack).matrix("layers.0.q", part)


def test_a_file_that_shrinks_under_its_reader_gives_an_error(folder):
    """A memory map of it would end the process."""
    path = folder / "model.safetensors"
    with ExitStack() as stack:
        source = SafetensorsWeights(folder, read_config(SHAPE), stack)
        kept = source.matrix("layers.0.q")
        before = kept.dequantize().clone()
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(ModelInvalidError, match="truncated"):
            source.matrix("head")
        assert torch.equal(kept.dequantize(), before)  # what was read is a copy


@pytest.mark.parametrize(
    "table",
    [
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 9]}},
        {"a": {"dtype": "F32", "shape": [2]}},
        {"a": 3},
        [],
        {"a": {"dtype": "F32", "shape": [1 << 60], "data_offsets": [0, 8]}},
    ],
)
def test_unsound_tables_are_refused(tmp_path, table):
    raw = json.dumps(table).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(8))
    with pytest.raises(ModelInvalidError):
        SafetensorsFile(path)

"""Metadata of strangers' files: types are checked, and what changes the arithmetic is honoured or refused."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.compute.angles import inverse
from argosy_worker.compute.rope_spec import FactorRope, LinearRope
from argosy_worker.models.families import BY_ARCHITECTURE
from argosy_worker.models.gguf import GgufFile
from argosy_worker.models.gguf_config import read_config

META = {
    "general.architecture": "llama",
    "general.name": "any",
    "llama.block_count": 2,
    "llama.context_length": 512,
    "llama.embedding_length": 64,
    "llama.feed_forward_length": 96,
    "llama.attention.head_count": 4,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "someone.else": [1],
}


def config(change):
    embed = SimpleNamespace(shape=(300, 64))
    return read_config(SimpleNamespace(metadata={**META, **change}, tensors={"token_embd.weight": embed}))


@pytest.mark.parametrize(
    ("change", "scaling"),
    [
        ({}, None),
        ({"llama.rope.scaling.factor": 4.0}, LinearRope(4.0)),
        ({"llama.rope.scale_linear": 4.0}, LinearRope(4.0)),
        ({"llama.rope.scale_linear": 4.0, "llama.rope.scaling.factor": 2.0}, LinearRope(2.0)),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0}, LinearRope(2.0)),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 2.0}, None),
        ({"llama.rope.scaling.factor": 1.0}, None),
        ({"llama.rope.scaling.factor": 0.0}, None),
    ],
)
def test_linear_scaling_is_read_as_llama_cpp_does(change, scaling):
    assert config(change).rope_scaling == scaling


def test_linear_scaling_divides_the_angles():
    (plain,), (scaled,) = config({}).ropes, config({"llama.rope.scaling.factor": 4.0}).ropes
    assert np.allclose(inverse(scaled)[0], inverse(plain)[0] / 4)


@pytest.fixture
def with_factors(gguf_type, tmp_path):
    """The configuration of a file that holds `rope_freqs.weight` and these keys."""

    def make(factors, change):
        raw = np.asarray(factors, dtype="<f4").tobytes()
        tensors = {"token_embd.weight": ((300, 64), 0, bytes(300 * 64 * 4)), "rope_freqs.weight": ((8,), 0, raw)}
        path = tmp_path / "x.gguf"
        path.write_bytes(gguf_type(tensors=tensors).encode())
        with GgufFile(path) as file:
            file.metadata.update({**META, **change})
            return read_config(file)

    return make


FACTORS = [1.0, 1.0, 1.5, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_factors_of_rotary_frequencies_are_read(with_factors):
    """Llama 3's scaling has no key in a GGUF file: its factors are a tensor. A linear factor multiplies them."""
    (plain,), (scaled,) = config({}).ropes, (found := with_factors(FACTORS, {})).ropes
    assert found.rope_scaling == FactorRope(factors=tuple(FACTORS))
    assert np.allclose(inverse(scaled)[0], inverse(plain)[0] / FACTORS)
    both = with_factors(FACTORS, {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0})
    assert both.rope_scaling == FactorRope(factors=tuple(2 * factor for factor in FACTORS))
    with pytest.raises(ModelUnsupportedError, match=r"rope_freqs\.weight.*yarn"):
        with_factors(FACTORS, {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 2.0})


@pytest.mark.parametrize(
    "name",
    ["gemma", "phi2", "deepseek2", "command-r", "glm4", "llama4", "bert", "mamba", "falcon", "t5", "gpt2", "stablelm"],
)
def test_other_architectures_are_refused_by_name(name):
    assert name not in BY_ARCHITECTURE
    with pytest.raises(ModelUnsupportedError, match=f"architecture '{name}' is not supported; supported are llama"):
        config({"general.architecture": name})


@pytest.mark.parametrize(
    "change",
    [
        {"llama.rope.scaling.type": "made-up", "llama.rope.scaling.factor": 2.0},
        {"llama.rope.scaling.yarn_beta_fast": 3.0},  # without yarn it is no key that anything asks for
        {"llama.rope.scaling.attn_factor": 1.5},
        {"llama.rope.scaling.yarn_log_multiplier": 0.1},
        {"llama.attention.causal": False},
        {"llama.logit_scale": 2.0},
        {"llama.something.new": "x"},
        {"llama.attention.clamp_kqv": np.array([0.0])},
        {"llama.residual_scale": 0.5},
        {"llama.expert_weights_scale": 2.0},
        {"tokenizer.ggml.add_eos_token": True},
        {"tokenizer.ggml.precompiled_charsmap": np.zeros(3)},
        {"split.count": 2},
        {"general.type": "adapter"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_the_arithmetic_is_refused(change):
    with pytest.raises(ModelUnsupportedError):
        config(change)


@pytest.mark.parametrize(
    "change",
    [
        {"llama.logit_scale": 1.0},
        {"llama.attention.causal": True},
        {"llama.vocab_size": 300},
        {"llama.expert_count": 0},
        {"llama.tensor_data_layout": "Meta AI original pth"},
        {"tokenizer.ggml.add_eos_token": False},
        {"tokenizer.ggml.scores": np.zeros(3)},
        {"quantize.imatrix.file": "x"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_nothing_is_passed_over(change):
    assert config(change) == config({})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("general.architecture", 3),
        ("general.type", 3),
        ("split.count", "two"),
        ("llama.block_count", "2"),
        ("llama.block_count", np.array([2])),
        ("llama.context_length", True),
        ("llama.expert_count", np.array([1, 2])),
        ("llama.rope.scaling.type", ["linear"]),
        ("llama.rope.scaling.factor", "4"),
        ("llama.rope.scaling.factor", -1.0),
        ("llama.rope.scaling.factor", math.inf),
        ("llama.rope.scaling.factor", math.nan),
        ("llama.rope.freq_base", [1]),
        ("llama.attention.layer_norm_rms_epsilon", None),
    ],
)
def test_wrong_types_are_invalid_and_name_the_key(key, value):
    with pytest.raises(ModelInvalidError, match=key.replace(".", r"\.")):
        config({key: value})

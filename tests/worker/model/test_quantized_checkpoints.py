"""Quantized safetensors checkpoints: each number is what its format says, and the model computes with it."""

import json
from contextlib import ExitStack

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors.torch import load_file, save_file
from tiny_llama import PROMPT, ours, theirs, write

from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.compute.native import library
from argosy_worker.models import load_model
from argosy_worker.models.build import open_model

GROUP = 32
SEED = torch.Generator().manual_seed(7)


def integers(shape, low, high):
    return torch.randint(low, high, shape, generator=SEED)


def scales(shape, dtype=torch.float16):
    return (torch.rand(shape, generator=SEED) * 0.02 + 0.001).to(dtype)


def words(numbers, bits):
    """i32 of whole numbers 0 .. 2**bits - 1 along the last dimension, one after another from the lowest bits on."""
    each = 32 // bits
    rows = numbers.reshape(*numbers.shape[:-1], -1, each).tolist()
    packed = [[sum(n << bits * i for i, n in enumerate(w)) for w in row] for row in rows]
    return torch.tensor(packed, dtype=torch.int64).to(torch.int32)


def spread(values, cols):
    return values.float().repeat_interleave(cols // values.shape[1], 1)


def gptq(rows, cols, *, bits=4, order=False, version=1, symmetric=False):
    groups = cols // GROUP
    q = integers((rows, cols), 0, 2**bits)
    zero = torch.full((rows, groups), 2 ** (bits - 1)) if symmetric else integers((rows, groups), 0, 2**bits)
    scale = scales((rows, groups))
    group = torch.arange(cols) // GROUP
    if order:
        group = group[torch.randperm(cols, generator=SEED)]
    stored = (zero - 1) % 2**bits if version == 1 else zero
    parts = {
        "qweight": words(q, bits).t(), "qzeros": words(stored.t(), bits), "scales": scale.t(),
        "g_idx": group.to(torch.int32),
    }  # fmt: skip
    return (q - zero[:, group]).float() * scale.float()[:, group], parts


def awq(rows, cols):
    groups = cols // GROUP
    q, zero, scale = integers((rows, cols), 0, 16), integers((rows, groups), 0, 16), scales((rows, groups))
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def packed(numbers):
        return words(numbers.view(len(numbers), -1, 8)[..., order].reshape(len(numbers), -1), 4)

    parts = {"qweight": packed(q.t()), "qzeros": packed(zero.t().contiguous()), "scales": scale.t()}
    return (q - spread(zero, cols)) * spread(scale, cols), parts


def packed(rows, cols, *, bits=4, symmetric=True, group=GROUP, order=False):
    groups, half = cols // (group or cols), 2 ** (bits - 1)
    q, scale = integers((rows, cols), -half, half).to(torch.int8), scales((rows, groups), torch.bfloat16)
    zero = (
        torch.zeros(rows, groups, dtype=torch.int8)
        if symmetric
        else integers((rows, groups), -half, half).to(torch.int8)
    )
    at = torch.arange(cols) // (group or cols)
    parts = {"weight_packed": pack_to_int32(q, bits), "weight_scale": scale, "weight_shape": torch.tensor([rows, cols])}
    if order:
        at = at[torch.randperm(cols, generator=SEED)]
        parts["weight_g_idx"] = at.to(torch.int32)
    if not symmetric:
        parts["weight_zero_point"] = pack_to_int32(zero, bits, packed_dim=0)
    return (q.float() - zero.float()[:, at]) * scale.float()[:, at], parts


def channels(rows, cols, *, symmetric=True):
    q, scale = integers((rows, cols), -128, 128).to(torch.int8), scales((rows, 1), torch.bfloat16)
    zero = integers((rows, 1), -128, 128).to(torch.int8)
    parts = {"weight": q, "weight_scale": scale, "input_scale": torch.ones(1)}
    if symmetric:
        return q.float() * scale.float(), parts
    return (q.float() - zero.float()) * scale.float(), parts | {"weight_zero_point": zero}


def float8(rows, cols, *, kind=torch.float8_e4m3fn, of="channel"):
    q = torch.randn(rows, cols, generator=SEED).mul_(20).to(kind)
    if of == "block":
        scale = scales((-(-rows // 32), -(-cols // 64)), torch.float32)
        grown = scale.repeat_interleave(32, 0)[:rows].repeat_interleave(64, 1)[:, :cols]
        return q.float() * grown, {"weight": q, "weight_scale_inv": scale}
    scale = scales((rows, 1), torch.float32) if of == "channel" else scales((), torch.float32)
    return q.float() * scale, {"weight": q, "weight_scale": scale}


def compressed(format_):
    return {
        "quant_method": "compressed-tensors",
        "format": format_,
        "config_groups": {"group_0": {"format": format_}},
        "ignore": ["lm_head"],
    }


CASES = {
    "gptq": ({"quant_method": "gptq", "bits": 4}, gptq, {}),
    "gptq-symmetric": ({"quant_method": "gptq", "bits": 4}, gptq, {"symmetric": True}),
    "gptq-act-order": ({"quant_method": "gptq", "bits": 4, "desc_act": True}, gptq, {"order": True}),
    "gptq-8": ({"quant_method": "gptq", "bits": 8}, gptq, {"bits": 8}),
    "gptq-v2": ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"}, gptq, {"version": 2}),
    "awq": ({"quant_method": "awq", "bits": 4, "version": "gemm"}, awq, {}),
    "packed-4": (compressed("pack-quantized"), packed, {}),
    "packed-4-asymmetric": (compressed("pack-quantized"), packed, {"symmetric": False}),
    "packed-4-channel": (compressed("pack-quantized"), packed, {"group": 0}),
    "packed-4-act-order": (compressed("pack-quantized"), packed, {"order": True}),
    "packed-8": (compressed("pack-quantized"), packed, {"bits": 8}),
    "packed-8-asymmetric": (compressed("pack-quantized"), packed, {"bits": 8, "symmetric": False}),
    "int8": (compressed("int-quantized"), channels, {}),
    "int8-asymmetric": (compressed("int-quantized"), channels, {"symmetric": False}),
    "float8-channel": (compressed("float-quantized"), float8, {}),
    "float8-tensor": ({"quant_method": "fp8"}, float8, {"of": "tensor"}),
    "float8-blocks": ({"quant_method": "fp8", "weight_block_size": [32, 64]}, float8, {"of": "block"}),
    "float8-e5m2": (compressed("naive-quantized"), float8, {"kind": torch.float8_e5m2}),
}


@pytest.fixture
def quantized(tmp_path):
    """Make a checkpoint of one of the CASES, and transformers' model with the numbers that it stands for."""

    def make(case):
        settings, quantize, options = CASES[case]
        folder = tmp_path / case
        model = write(folder)
        tensors, state = load_file(folder / "model.safetensors"), model.state_dict()
        for name in [n for n in tensors if "proj.weight" in n]:
            values, parts = quantize(*tensors.pop(name).shape, **options)
            state[name].copy_(values)
            module = name.removesuffix(".weight")
            tensors |= {f"{module}.{part}": tensor.contiguous() for part, tensor in parts.items()}
        save_file(tensors, folder / "model.safetensors")
        change(folder, quantization_config=settings)
        return folder, model

    return make


def change(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize("case", CASES)
def test_numbers_and_answers_are_those_that_the_format_says(quantized, case):
    folder, model = quantized(case)
    state = model.state_dict()
    with ExitStack() as stack:
        source = open_model(folder, stack).weights
        for role, name in (("q", "self_attn.q_proj"), ("k", "self_attn.k_proj"), ("down", "mlp.down_proj")):
            found = source.matrix(f"layers.1.{role}")
            assert torch.equal(found.dequantize(), state[f"model.layers.1.{name}.weight"])
            part = source.matrix(f"layers.1.{role}", slice(8, 24))
            assert torch.equal(part.dequantize(), found.dequantize()[8:24])
    loaded = load_model(folder, weights="none", device="cpu", threads=1)
    assert torch.allclose(ours(loaded, PROMPT), theirs(model, PROMPT), atol=5e-4, rtol=0)


def test_a_checkpoint_of_4_bits_keeps_its_numbers_in_an_int4_model(quantized):
    folder, model = quantized("packed-4")
    loaded = load_model(folder, weights="int4", group_size=GROUP, device="cpu", threads=1)
    # bf16 activations: 8 bits
    assert torch.allclose(ours(loaded, PROMPT), theirs(model, PROMPT), atol=0.15, rtol=0)
    assert loaded.facts.quantization.startswith("INT4")


@pytest.mark.parametrize(
    "choice", [("fp16", None), ("bf16", None), ("fp8", None), ("int8", None), ("int8", 32), ("int4", 32)]
)
def test_chunks_and_company_change_no_bit(tmp_path, choice):
    write(tmp_path)
    try:
        loaded = load_model(tmp_path, weights=choice[0], group_size=choice[1], device="cpu", threads=2)
    except ModelUnsupportedError:
        assert choice == ("int8", 32)  # of these, what a CPU without VNNI does not run
        return
    whole = ours(loaded, PROMPT)
    assert torch.equal(ours(loaded, PROMPT, chunk=7), whole)
    assert torch.equal(ours(loaded, PROMPT, chunk=33, copies=3), whole)


def test_choices_that_compute_different_values_have_different_fingerprints(quantized):
    folder, _ = quantized("packed-4")
    choices = [
        ("none", None),
        ("fp16", None),
        ("bf16", None),
        ("fp8", None),
        ("int8", None),
        ("int4", 32),
        ("auto", None),
    ]
    found = {c: load_model(folder, weights=c[0], group_size=c[1], device="cpu", threads=1).facts for c in choices}
    prints = {facts.fingerprint for facts in found.values()}
    assert len(prints) == len(choices) - (
        0 if library.kernels() else 1
    )  # without native kernels auto is one of the others
    assert {facts.exactness for facts in found.values()} == {"exact"}
    folder, _ = quantized("packed-4-asymmetric")
    assert load_model(folder, weights="none", device="cpu", threads=1).facts.fingerprint not in prints


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"quant_method": "bitsandbytes"},
            "quantization method 'bitsandbytes' is not supported; supported are awq, gptq",
        ),
        ({"bits": 4}, "quantization method None"),
        ({"quant_method": "awq", "version": "gemv"}, "AWQ version 'gemv'"),
        ({"quant_method": "gptq", "bits": 3}, "GPTQ with 3 bits"),
        ({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}, "'marlin'"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"x": {}}}, "dynamic"),
        (compressed("nvfp4-pack-quantized"), "nvfp4-pack-quantized"),
        (compressed("pack-quantized") | {"transform_config": {"x": 1}}, "transform_config"),
        (compressed("pack-quantized") | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse-24-bitmask"),
    ],
)
def test_other_methods_are_refused_by_name(tmp_path, settings, words):
    write(tmp_path)
    folder = tmp_path
    change(folder, quantization_config=settings)
    with pytest.raises(ModelUnsupportedError, match=words):
        load_model(folder, device="cpu", threads=1)


@pytest.mark.parametrize(
    ("case", "damage", "error", "words"),
    [
        ("gptq", lambda t: t.pop("scales"), ModelInvalidError, "has no 'scales'"),
        ("gptq", lambda t: t.update(g_idx=t["g_idx"] + 7), ModelInvalidError, "g_idx leads out"),
        ("gptq", lambda t: t.update(qzeros=t["qzeros"][:1].clone()), ModelInvalidError, "qzeros has shape"),
        ("gptq", lambda t: t.update(qweight=t["qweight"].float()), ModelInvalidError, "is F32; must be I32"),
        ("awq", lambda t: t.update(scales=t["scales"][0].clone()), ModelInvalidError, "two dimensions"),
        ("packed-4", lambda t: t.update(weight_shape=t["weight_shape"] * 3), ModelInvalidError, "weight_shape is"),
        ("packed-4", lambda t: t.pop("weight_packed"), ModelInvalidError, "has no 'weight'"),
        (
            "packed-4",
            lambda t: t.update(weight_scale=t["weight_scale"][:3].clone()),
            ModelInvalidError,
            "weight_scale has shape",
        ),
        ("int8", lambda t: t.update(weight_scale=torch.ones(5, 1)), ModelInvalidError, "weight_scale has shape"),
        (
            "float8-blocks",
            lambda t: t.update(weight_scale_inv=torch.ones(1, 1)),
            ModelInvalidError,
            "weight_scale_inv has shape",
        ),
        ("int8", lambda t: t.update(weight=t["weight"].float()), ModelUnsupportedError, "is F32 and has scales"),
    ],
)
def test_damaged_modules_are_refused_by_name(quantized, case, damage, error, words):
    folder, _ = quantized(case)
    tensors = load_file(folder / "model.safetensors")
    at = "model.layers.1.mlp.down_proj."
    parts = {name.removeprefix(at): tensors.pop(name) for name in list(tensors) if name.startswith(at)}
    damage(parts)
    save_file(tensors | {at + part: tensor for part, tensor in parts.items()}, folder / "model.safetensors")
    with pytest.raises(error, match=words):
        load_model(folder, weights="none", device="cpu", threads=1)

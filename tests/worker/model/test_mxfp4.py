"""Checkpoints of gpt-oss with experts in MXFP4: transformers' probabilities, and no number is changed."""

import json
from contextlib import ExitStack

import pytest
import small_models
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from argosy_api.errors import ModelError
from argosy_worker.evaluate.score import score
from argosy_worker.models import load_model
from argosy_worker.models.build import open_model


def write(folder, change=lambda tensors: None):
    """A folder whose experts are random blocks and scales; transformers' model with the same numbers."""
    made = small_models.model("gpt-oss")
    made.save_pretrained(folder)
    small_models.write_tokenizer(folder)
    generator = torch.Generator().manual_seed(3)
    tensors = load_file(folder / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, out = tensors.pop(name).shape
        blocks = torch.randint(0, 256, (experts, out, inputs // 32, 16), generator=generator, dtype=torch.uint8)
        scales = torch.randint(120, 126, (experts, out, inputs // 32), generator=generator, dtype=torch.uint8)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        made.get_parameter(name).data = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    settings = {**json.loads(path.read_text()), "quantization_config": {"quant_method": "mxfp4"}}
    path.write_text(json.dumps(settings))
    return made


def test_the_tokens_have_the_probabilities_that_transformers_gives_them(tmp_path):
    made, text = write(tmp_path), torch.randint(3, small_models.VOCAB, (120,)).tolist()
    ours = score(load_model(tmp_path, compute="fp32", device="cpu", threads=1), [text]).logprobs
    with torch.inference_mode():
        theirs = made(torch.tensor([text])).logits[0, :-1].log_softmax(-1).gather(1, torch.tensor(text[1:])[:, None])
    torch.testing.assert_close(ours, theirs[:, 0], rtol=1e-4, atol=1e-4)


def test_the_numbers_stay_in_four_bits(tmp_path):
    made = write(tmp_path)
    experts = made.model.layers[1].mlp.experts
    with ExitStack() as stack:
        weights = open_model(tmp_path, stack).weights
        for role, wanted in (
            ("gate", experts.gate_up_proj[2, :, ::2]),
            ("up", experts.gate_up_proj[2, :, 1::2]),
            ("down", experts.down_proj[2]),
        ):
            found = weights.matrix(f"layers.1.experts.2.{role}")
            assert found.format == "MXFP4"
            assert torch.equal(found.dequantize(), wanted.T)
            part = weights.matrix(f"layers.1.experts.2.{role}", slice(3, 9), slice(32, 64))
            assert torch.equal(part.dequantize(), wanted.T[3:9, 32:64])
        assert weights.formats().startswith("MXFP4+")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(next(k for k in t if k.endswith("_scales"))), "have no tensor '.*_scales'"),
        (lambda t: t.update({k: v[..., :8].clone() for k, v in t.items() if k.endswith("_blocks")}), "must be .*16"),
        (lambda t: t.update({k: v.float() for k, v in t.items() if k.endswith("_scales")}), "is F32; must be U8"),
        (
            lambda t: t.update({k: v[:3].clone() for k, v in t.items() if "_proj_" in k and "bias" not in k}),
            "has shape",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, message):
    write(tmp_path, change)
    with pytest.raises(ModelError, match=message):
        load_model(tmp_path, compute="fp32", device="cpu", threads=1)

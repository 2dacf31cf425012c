"""Small random checkpoints of each family, written by transformers, give transformers' logits; bad folders are refused."""

import json
import shutil
import struct
from contextlib import ExitStack

import numpy as np
import psutil
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from argosy_api.errors import ModelInvalidError, ModelNotFoundError, ModelUnsupportedError
from argosy_api.params import SamplingParams
from argosy_worker.compute.quant.fp32_cpu import Fp32Tiles
from argosy_worker.core.batch import SequenceSlice, StepBatch
from argosy_worker.models import load_model
from argosy_worker.models.build import assemble, open_model

VOCAB = 96
SHAPE = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILIES = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "llama-untied-llama3-rope": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, head_dim=32, rope_parameters=LLAMA3)),
    "llama-linear-rope": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0})
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=32)),
}


def write_tokenizer(folder):
    words = ["<unk>", "<s>", "</s>", *(chr(33 + i) for i in range(VOCAB - 4))]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "from the settings"})
    )


@pytest.fixture
def checkpoint(tmp_path):
    def make(family="llama", *, dtype=torch.float32, shards=False):
        torch.manual_seed(1)
        model = FAMILIES[family]().eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" in name or "bias" in name:  # transformers starts them at 1 and 0, which would hide mistakes
                    parameter.add_(torch.randn_like(parameter) * 0.2)
        folder = tmp_path / "model"
        model.to(dtype).save_pretrained(folder, max_shard_size="60KB" if shards else "5GB")
        write_tokenizer(folder)
        return folder, model.float()

    return make


def ours(loaded, prompt):
    runner = loaded.make_runner(32, 16)
    slices = [
        SequenceSlice(
            request_id="r", tokens=prompt[at : at + 70], start=at, table=range(1, 33), sample_rows=range(0), params=SamplingParams(prompt_logprobs=0),
            prompt_targets=prompt[at + 1 : at + 71],
        )
        for at in range(0, len(prompt), 70)
    ]  # fmt: skip
    return torch.tensor(
        [score.logprob for s in slices for score in runner.launch(StepBatch([s])).result()[0].prompt_logprobs]
    )


def theirs(model, prompt):
    with torch.inference_mode():
        scores = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    return scores[:-1].gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]


PROMPT = torch.randint(3, VOCAB, (200,), generator=torch.Generator().manual_seed(2)).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_families_agree_with_transformers(checkpoint, family):
    folder, model = checkpoint(family)
    loaded = load_model(folder, compute="fp32", device="cpu", threads=1)
    assert torch.allclose(ours(loaded, PROMPT), theirs(model, PROMPT), atol=2e-4, rtol=0)
    assert loaded.facts.quantization == "F32"
    assert (loaded.facts.bos_token_id, loaded.facts.eos_token_ids, loaded.facts.add_bos) == (1, (2,), False)


@pytest.mark.parametrize(("special", "ends"), [(True, (2, 95)), (False, (2,))])
def test_a_special_token_that_ends_turns_by_its_text_is_an_end(checkpoint, special, ends):
    """As in a GGUF file of the same model; an ordinary token of that text is text."""
    folder, _ = checkpoint()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=special)])
    tokenizer.save(str(folder / "tokenizer.json"))
    assert load_model(folder, compute="fp32", device="cpu", threads=1).facts.eos_token_ids == ends


def test_shards_and_bf16(checkpoint):
    folder, model = checkpoint(dtype=torch.bfloat16, shards=True)
    assert len(list(folder.glob("*.safetensors"))) > 2
    loaded = load_model(folder, compute="fp32", device="cpu", threads=1)
    assert loaded.facts.quantization == "BF16"
    assert torch.allclose(ours(loaded, PROMPT), theirs(model, PROMPT), atol=2e-4, rtol=0)


def test_the_same_llama_as_gguf(checkpoint, gguf_type, tmp_path):
    """Written as the GGUF converter does, with permuted q and k rows, the model gives the same logits."""
    folder, model = checkpoint()
    config, state = model.config, model.state_dict()
    names = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
             "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}  # fmt: skip
    tensors = {
        "token_embd.weight": state["model.embed_tokens.weight"],
        "output_norm.weight": state["model.norm.weight"],
    }
    for name, value in state.items():
        parts = name.split(".")
        if parts[1] != "layers":
            continue
        kind = parts[-2]
        heads = {"q_proj": 4, "k_proj": 2}.get(kind)
        if heads:  # halves of a head become alternating rows
            turned = value.view(heads, 2, -1, 64).transpose(1, 2).reshape(value.shape)
        tensors[f"blk.{parts[2]}.{names[kind]}.weight"] = turned if heads else value
    file = gguf_type(
        metadata={
            "general.architecture": (8, "llama"), "llama.block_count": (4, 2), "llama.context_length": (4, 512), "llama.embedding_length": (4, 64),
            "llama.feed_forward_length": (4, 96), "llama.attention.head_count": (4, 4), "llama.attention.head_count_kv": (4, 2),
            "llama.attention.layer_norm_rms_epsilon": (6, config.rms_norm_eps), "tokenizer.ggml.model": (8, "gpt2"), "tokenizer.ggml.pre": (8, "gpt-2"),
            "tokenizer.ggml.tokens": (9, (8, [chr(33 + i) for i in range(90)])), "tokenizer.ggml.merges": (9, (8, [])),
        },
        tensors={name: (tuple(t.shape), 0, t.numpy().astype("<f4").tobytes()) for name, t in tensors.items()},
    )  # fmt: skip
    path = tmp_path / "model.gguf"
    path.write_bytes(file.encode())
    loaded = load_model(path, compute="fp32", device="cpu", threads=1)
    assert np.array_equal(
        ours(loaded, PROMPT), ours(load_model(folder, compute="fp32", device="cpu", threads=1), PROMPT)
    )
    file.tensors["blk.0.attn_output.bias"] = ((64,), 0, bytes(256))
    path.write_bytes(file.encode())
    with pytest.raises(ModelUnsupportedError, match=r"attn_output\.bias"):
        load_model(path, device="cpu")
    del file.tensors["blk.0.attn_output.bias"], file.tensors["blk.1.ffn_up.weight"]
    path.write_bytes(file.encode())
    with pytest.raises(ModelInvalidError, match=r"blk\.1\.ffn_up"):
        load_model(path, device="cpu")


def test_fingerprints_tell_models_apart(checkpoint):
    folder, _ = checkpoint()
    first = load_model(folder, compute="fp32", device="cpu").facts.fingerprint
    for threads in (1, 3):  # replicas on nodes of different size are alike
        assert load_model(folder, compute="fp32", device="cpu", threads=threads).facts.fingerprint == first
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert load_model(folder, compute="fp32", device="cpu").facts.fingerprint != first


def test_chat_template_file_wins(checkpoint):
    folder, _ = checkpoint()
    assert load_model(folder, compute="fp32", device="cpu").facts.chat_template == "from the settings"
    (folder / "chat_template.jinja").write_text("from the file")
    assert load_model(folder, compute="fp32", device="cpu").facts.chat_template == "from the file"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"model_type": "mamba"}, ModelUnsupportedError),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, ModelUnsupportedError),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, ModelUnsupportedError),
        ({"rope_parameters": {"rope_type": "linear", "factor": -1.0}}, ModelInvalidError),
        ({"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, ModelUnsupportedError),
        ({"hidden_act": "gelu"}, ModelUnsupportedError),
        ({"quantization_config": {"quant_method": "gptq"}}, ModelUnsupportedError),
        ({"hidden_size": "64"}, ModelInvalidError),
        ({"hidden_size": None}, ModelInvalidError),
        ({"hidden_size": 128}, ModelInvalidError),
        ({"num_attention_heads": 0}, ModelInvalidError),
        ({"num_key_value_heads": 3}, ModelInvalidError),
        ({"num_hidden_layers": 3}, ModelInvalidError),
        ({"num_hidden_layers": 1}, ModelUnsupportedError),
        ({"num_hidden_layers": 10**9}, ModelInvalidError),
        ({"vocab_size": 10}, ModelInvalidError),
        ({"eos_token_id": 5000}, ModelInvalidError),
    ],
)
def test_bad_configurations_are_refused(checkpoint, change, error):
    folder, _ = checkpoint()
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(error):
        load_model(folder, compute="fp32", device="cpu")


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_files_are_named(checkpoint, missing):
    folder, _ = checkpoint()
    (folder / missing).unlink()
    with pytest.raises(ModelNotFoundError, match=missing):
        load_model(folder, device="cpu")


@pytest.mark.parametrize(
    "shard", ["../model-1.safetensors", "/etc/passwd", "a/b.safetensors", "x.bin", "", 7, ".safetensors"]
)
def test_shard_names_cannot_leave_the_folder(checkpoint, shard):
    folder, _ = checkpoint(shards=True)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = shard
    path.write_text(json.dumps(index))
    with pytest.raises(ModelInvalidError, match="plain name"):
        load_model(folder, device="cpu")


def test_damaged_files_are_refused(checkpoint):
    folder, _ = checkpoint()
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    for bad in (
        b"",
        raw[:4],
        raw[:5000],
        raw[:-1],
        struct.pack("<Q", 1 << 62) + raw[8:],
        b"\x10" + bytes(7) + b"{" * 200,
    ):
        path.write_bytes(bad)
        with pytest.raises(ModelInvalidError):
            load_model(folder, device="cpu")
    path.write_bytes(raw)
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(folder / name, folder / "kept")
        for bad in (b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000):
            (folder / name).write_bytes(bad)
            with pytest.raises(ModelInvalidError):
                load_model(folder, device="cpu")
        shutil.copy(folder / "kept", folder / name)
    load_model(folder, device="cpu")


def test_the_context_that_a_file_claims_costs_nothing(checkpoint):
    """A claim of 2**24 positions takes no memory; a runner of a few blocks answers as before."""
    folder, model = checkpoint()
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_position_embeddings": 1 << 24}))
    before = psutil.Process().memory_info().rss
    loaded = load_model(folder, compute="fp32", device="cpu", threads=2)
    assert psutil.Process().memory_info().rss - before < 1 << 30  # tables of all positions would take 2 GiB
    assert loaded.facts.context_length == 1 << 24
    assert torch.allclose(ours(loaded, PROMPT), theirs(model, PROMPT), atol=2e-4, rtol=0)


def test_an_open_model_with_kernels_of_choice(checkpoint):
    """What is assembled outlives the files, and its linears are of the kernels that were given."""
    folder, _ = checkpoint()
    with ExitStack() as stack:
        model = assemble(open_model(folder, stack), compute="fp32", device="cpu", threads=1, kernels=(Fp32Tiles(),))
    assert {role: report.split()[0] for role, report in model.kernels.items() if role in {"qkv", "head"}} == {
        "qkv": "fp32-tiles",
        "head": "fp32-tiles",
    }
    assert model.make_runner(2, 16).launch(StepBatch([])).result() == []

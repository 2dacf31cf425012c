"""Small random models of every family, as transformers writes them, and the same as GGUF files (written by gguf)."""

import json

import gguf
import numpy as np
import torch
import transformers as t
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

VOCAB = 96
SHAPE = {
    "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None,
}  # fmt: skip
ROPE = {"rope_theta": 10000.0}
LLAMA3 = {**ROPE, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
YARN = {**ROPE, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LONG = {**ROPE, "rope_type": "longrope", "short_factor": [1.0 + 0.1 * i for i in range(6)], "long_factor": [2.0 + i for i in range(6)], "partial_rotary_factor": 0.75}  # fmt: skip
WIDE = {**SHAPE, "hidden_size": 128}
FOUR = {**SHAPE, "num_hidden_layers": 4}
EXPERTS = {"num_experts_per_tok": 2}

FAMILIES = {
    "llama": ("llama", t.LlamaConfig, {**SHAPE, "tie_word_embeddings": True}),
    "llama-biases": ("llama", t.LlamaConfig, {**SHAPE, "head_dim": 32, "attention_bias": True, "mlp_bias": True}),
    "llama-llama3": ("llama", t.LlamaConfig, {**SHAPE, "head_dim": 32, "rope_parameters": LLAMA3}),
    "llama-linear": ("llama", t.LlamaConfig, {**SHAPE, "rope_parameters": {**ROPE, "rope_type": "linear", "factor": 4.0}}),
    "llama-dynamic": ("llama", t.LlamaConfig, {**SHAPE, "rope_parameters": {**ROPE, "rope_type": "dynamic", "factor": 4.0}}),
    "llama-yarn": ("llama", t.LlamaConfig, {**SHAPE, "rope_parameters": YARN}),
    "mistral": ("llama", t.MistralConfig, {**SHAPE, "sliding_window": 48}),
    "mixtral": ("llama", t.MixtralConfig, {**SHAPE, **EXPERTS, "num_local_experts": 5, "sliding_window": None}),
    "smollm3": ("smollm3", t.SmolLM3Config, {**WIDE, "num_hidden_layers": 4}),
    "qwen2": ("qwen2", t.Qwen2Config, SHAPE),
    "qwen3": ("qwen3", t.Qwen3Config, {**SHAPE, "head_dim": 32, "rope_parameters": YARN}),
    "qwen3-moe": ("qwen3moe", t.Qwen3MoeConfig, {**SHAPE, **EXPERTS, "num_experts": 6, "moe_intermediate_size": 32, "head_dim": 32, "norm_topk_prob": True}),
    "gemma2": ("gemma2", t.Gemma2Config, {**FOUR, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 48, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("gemma3", t.Gemma3TextConfig, {**SHAPE, "num_hidden_layers": 6, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 48}),
    "phi3": ("phi3", t.Phi3Config, {**SHAPE, "rope_parameters": {**LONG}, "original_max_position_embeddings": 128, "sliding_window": 100, "pad_token_id": 0}),
    "phi3-plain": ("phi3", t.Phi3Config, {**SHAPE, "pad_token_id": 0}),
    "granite": ("granite", t.GraniteConfig, {**WIDE, "embedding_multiplier": 12.0, "attention_multiplier": 0.3, "residual_multiplier": 0.22, "logits_scaling": 8.0}),
    "olmo2": ("olmo2", t.Olmo2Config, WIDE),
    "gpt-oss": ("gpt-oss", t.GptOssConfig, {**FOUR, **EXPERTS, "num_local_experts": 5, "head_dim": 16, "sliding_window": 48, "rope_parameters": {**YARN, "truncate": False}}),
}  # fmt: skip
"""Name -> architecture of its GGUF, transformers' configuration, its fields."""
NO_GGUF = {"llama-dynamic"}
"""Scalings that GGUF has no words for."""


def model(name):
    """transformers' model, with norms, biases and sinks of random numbers: 1 and 0 would hide mistakes."""
    torch.manual_seed(1)
    _, config, fields = FAMILIES[name]
    made = t.AutoModelForCausalLM.from_config(config(**fields), attn_implementation="eager").eval()
    with torch.no_grad():
        for key, parameter in made.named_parameters():
            if parameter.dim() == 1 or "norm" in key or "bias" in key:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            elif "embed" not in key:
                parameter.mul_(3)  # experts differ, caps bind
    return made


def write_gguf(name, made, path, tokenizer, *, without=(), more=()):
    """As llama.cpp's converter does it; `without` these tensors, with `more` vectors of these names."""
    arch, _, _ = FAMILIES[name]
    c, w = made.config, gguf.GGUFWriter(str(path), arch)
    scale = rope(c)
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_rope_freq_base(scale["rope_theta"])
    dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    w.add_key_length(dim)
    w.add_value_length(dim)
    w.add_rope_dimension_count(int(dim * scale.get("partial_rotary_factor", 1)))
    if getattr(c, "sliding_window", None):
        w.add_sliding_window(c.sliding_window)
    if scale["rope_type"] in ("linear", "yarn"):
        w.add_rope_scaling_type(gguf.RopeScalingType(scale["rope_type"]))
        w.add_rope_scaling_factor(scale["factor"])
    if scale["rope_type"] == "yarn":
        w.add_rope_scaling_orig_ctx_len(scale["original_max_position_embeddings"])
    if scale["rope_type"] == "longrope":
        original = c.original_max_position_embeddings
        w.add_rope_scaling_orig_ctx_len(original)
        w.add_rope_scaling_attn_factors(
            float(np.sqrt(1 + np.log(c.max_position_embeddings / original) / np.log(original)))
        )
        for which in ("short", "long"):
            w.add_tensor(f"rope_factors_{which}.weight", np.array(scale[f"{which}_factor"], dtype=np.float32))
    if scale["rope_type"] == "llama3":
        w.add_tensor("rope_freqs.weight", llama3_factors(scale, dim))
    if name == "granite":
        w.add_attention_scale(c.attention_multiplier)
        w.add_embedding_scale(c.embedding_multiplier)
        w.add_residual_scale(c.residual_multiplier)
        w.add_logit_scale(c.logits_scaling)
    if name == "gemma2":
        w.add_attn_logit_softcapping(c.attn_logit_softcapping)
        w.add_final_logit_softcapping(c.final_logit_softcapping)
    if count := getattr(c, "num_local_experts", getattr(c, "num_experts", 0)):
        w.add_expert_count(count)
        w.add_expert_used_count(c.num_experts_per_tok)
        if arch != "llama":
            w.add_expert_feed_forward_length(getattr(c, "moe_intermediate_size", c.intermediate_size))
    for key, value in tokenizer.items():
        getattr(w, f"add_{key}")(value)
    names = gguf.get_tensor_name_map(
        gguf.MODEL_ARCH(next(k for k, v in gguf.MODEL_ARCH_NAMES.items() if v == arch)), c.num_hidden_layers
    )
    for key, value in tensors(name, arch, made):
        found = names.get_name(key, try_suffixes=(".weight", ".bias", ".sinks"))
        if key.endswith(".sinks"):
            found = names.get_name(key) + ".weight"
        if found in without:
            continue
        w.add_tensor(found, value.contiguous().float().numpy())
    for key in more:
        w.add_tensor(key, np.ones(c.hidden_size, dtype=np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def rope(c):
    found = c.rope_parameters
    return found.get("full_attention", found)


def llama3_factors(scale, dim):
    """As the converter computes `rope_freqs`."""
    freqs = 1.0 / (scale["rope_theta"] ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim))
    low, high = (scale["original_max_position_embeddings"] / scale[f"{which}_freq_factor"] for which in ("low", "high"))
    factors = []
    for freq in freqs:
        length = 2 * torch.pi / freq
        if length < high:
            factors.append(1)
        elif length > low:
            factors.append(scale["factor"])
        else:
            smooth = (scale["original_max_position_embeddings"] / length - scale["low_freq_factor"]) / (scale["high_freq_factor"] - scale["low_freq_factor"])  # fmt: skip
            factors.append(1 / ((1 - smooth) / scale["factor"] + smooth))
    return np.array(factors, dtype=np.float32)


def tensors(name, arch, made):
    """Names that gguf's map knows, and values in the order of the converter."""
    heads = {"q_proj": made.config.num_attention_heads, "k_proj": made.config.num_key_value_heads}
    for key, stored in made.state_dict().items():
        value = stored
        if key == "lm_head.weight" and made.config.tie_word_embeddings:
            continue
        part = key.split(".")[-2]
        if arch in ("llama", "smollm3", "granite") and part in heads:  # halves of a head become alternating rows
            value = value.view(heads[part], 2, -1, *value.shape[1:]).transpose(1, 2).reshape(value.shape)
        if arch in ("gemma2", "gemma3") and key.endswith("norm.weight"):
            value = value + 1
        if ".experts." not in key:
            yield key, value
            continue
        at, bias = key.split(".experts.")[0] + ".experts.", ".bias" if key.endswith("bias") else ".weight"
        if arch == "gpt-oss" and value.dim() == 3:
            value = value.transpose(1, 2)
        if "gate_up" in key:
            ffn = value.shape[1] // 2
            gate, up = (value[:, ::2], value[:, 1::2]) if arch == "gpt-oss" else (value[:, :ffn], value[:, ffn:])
            yield f"{at}gate_proj{bias}", gate
            yield f"{at}up_proj{bias}", up
        else:
            yield f"{at}down_proj{bias}", value


def write_tokenizer(folder):
    words = ["<unk>", "<s>", "</s>", *(chr(33 + i) for i in range(VOCAB - 4))]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "from the settings"})
    )

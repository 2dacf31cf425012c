"""Names of tensors in checkpoints of the Hugging Face layout."""

from argosy_worker.compute.config import DecoderConfig
from argosy_worker.models.families import BY_MODEL_TYPE
from argosy_worker.models.places import Place
from argosy_worker.models.weights import shape_of

_TOP = {"embed": "model.embed_tokens.weight", "head": "lm_head.weight", "final_norm": "model.norm.weight"}
_PARTS = {
    "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj",
    "gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj", "router": "mlp.gate",
    "attn_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm",
    "q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm",
}  # fmt: skip
_OTHER_NORMS = {
    "mlp_norm": "pre_feedforward_layernorm", "post_attn_norm": "post_attention_layernorm",
    "post_mlp_norm": "post_feedforward_layernorm",
}  # fmt: skip
"""Where parts have norms after them."""
_MIXTRAL = {"router": "block_sparse_moe.gate", "gate": "w1", "down": "w2", "up": "w3"}


def place(config: DecoderConfig, role: str) -> Place:
    """Where a role of `weights.py` lies."""
    family, shape = BY_MODEL_TYPE[config.architecture], shape_of(config, role)
    norm = 1.0 if family.norms_less_one and role.endswith("norm") else 0.0
    if role in _TOP:
        return Place(name=_TOP[role], shape=shape, plus=norm)
    _, layer, part = role.split(".", 2)
    at, kind = f"model.layers.{layer}.", "bias" if part.endswith(".bias") else "weight"
    part = part.removesuffix(".bias")
    if part == "sinks":
        return Place(name=f"{at}self_attn.sinks", shape=shape)
    if family.sinks and part == "router":
        return Place(name=f"{at}mlp.router.{kind}", shape=shape)
    if part.startswith("experts."):
        _, number, part = part.split(".")
        if family.sinks:
            return _stacked(config, f"{at}mlp.experts.", int(number), part, kind)
        if family.model_type == "mixtral":
            return Place(name=f"{at}block_sparse_moe.experts.{number}.{_MIXTRAL[part]}.{kind}", shape=shape)
        return Place(name=f"{at}mlp.experts.{number}.{part}_proj.{kind}", shape=shape)
    if family.fused and part in ("q", "k", "v", "gate", "up"):
        return fused(config, role, f"{at}self_attn.qkv_proj.{kind}", f"{at}mlp.gate_up_proj.{kind}")
    names = _PARTS | (_OTHER_NORMS if config.norms != "before" else {})
    if family.model_type == "mixtral" and part == "router":
        names = _MIXTRAL
    return Place(name=f"{at}{names[part]}.{kind}", shape=shape, plus=norm)


def _stacked(config: DecoderConfig, at: str, number: int, part: str, kind: str) -> Place:
    """gpt-oss: matrices [experts, in, out], gates and ups in alternating columns."""
    ffn, hidden = config.expert_ffn or config.ffn, config.hidden
    count = config.experts.count if config.experts else 0
    name = f"{at}{'down_proj' if part == 'down' else 'gate_up_proj'}{'_bias' if kind == 'bias' else ''}"
    inputs, outputs = (ffn, hidden) if part == "down" else (hidden, 2 * ffn)
    shape = (count, outputs) if kind == "bias" else (count, inputs, outputs)
    if part == "down":
        return Place(name=name, shape=shape, expert=number, every=1)
    return Place(name=name, shape=shape, expert=number, begin=int(part == "up"), every=2)


def fused(config: DecoderConfig, role: str, qkv: str, gate_up: str) -> Place:
    """Rows of a tensor that holds q, k and v, or gate and up, one below the other."""
    shape = shape_of(config, role)
    rows, end = shape[0], shape[1:]
    part = role.split(".")[2]
    if part in ("gate", "up"):
        return Place(name=gate_up, shape=(2 * rows, *end), begin=rows if part == "up" else 0, rows=rows)
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    begin = {"q": 0, "k": queries, "v": queries + keys}[part]
    return Place(name=qkv, shape=(queries + 2 * keys, *end), begin=begin, rows=rows)

"""Names of tensors in GGUF files, and the order of their rows.

Files of some architectures (`llama` first of all) hold the rows of q and k in the order of interleaved rotary pairs:
the converter turns the two halves of a head (first halves of all pairs, then second ones) into alternating rows. They
are put back, so that every model rotates halves and equals the original checkpoint.
"""

from argosy_worker.compute.config import DecoderConfig
from argosy_worker.models.families import BY_ARCHITECTURE
from argosy_worker.models.hf_names import fused
from argosy_worker.models.places import Place
from argosy_worker.models.weights import shape_of

_TOP = {"embed": "token_embd.weight", "head": "output.weight", "final_norm": "output_norm.weight"}
_PARTS = {
    "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate", "up": "ffn_up",
    "down": "ffn_down", "router": "ffn_gate_inp", "sinks": "attn_sinks", "q_norm": "attn_q_norm",
    "k_norm": "attn_k_norm", "attn_norm": "attn_norm", "mlp_norm": "ffn_norm", "post_attn_norm": "post_attention_norm",
    "post_mlp_norm": "post_ffw_norm",
}  # fmt: skip


def place(config: DecoderConfig, role: str) -> Place:
    """Where a role of `weights.py` lies."""
    family, shape = BY_ARCHITECTURE[config.architecture], shape_of(config, role)
    if role in _TOP:
        return Place(name=_TOP[role], shape=shape)
    _, layer, part = role.split(".", 2)
    at, kind = f"blk.{layer}.", "bias" if part.endswith(".bias") else "weight"
    part = part.removesuffix(".bias")
    if part.startswith("experts."):
        _, number, part = part.split(".")
        count = config.experts.count if config.experts else 0
        return Place(name=f"{at}{_PARTS[part]}_exps.{kind}", shape=(count, *shape), expert=int(number))
    if family.fused and part in ("q", "k", "v", "gate", "up"):
        return fused(config, role, f"{at}attn_qkv.{kind}", f"{at}ffn_up.{kind}")
    name = _PARTS[part]
    if family.sinks and part == "mlp_norm":
        name = "post_attention_norm"  # as its place in the original is called
    pairs = config.head_dim if family.permuted and part in ("q", "k") else 0
    return Place(name=f"{at}{name}.{kind}", shape=shape, pairs=pairs)

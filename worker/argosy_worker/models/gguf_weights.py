"""Decoder configuration and weights of a GGUF file.

Files of architecture `llama` hold the rows of q and k in the order of interleaved rotary pairs: the converter turns
the two halves of a head (first halves of all pairs, then second ones) into alternating rows. They are put back, so
that every model rotates halves and equals the original checkpoint. Other architectures are stored as they are.
"""

import math
from collections import Counter

import torch
from torch import Tensor

from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.compute.config import DecoderConfig, LinearRope
from argosy_worker.compute.layer import choose_layer
from argosy_worker.compute.quant.formats import QuantTensor, from_bytes
from argosy_worker.models.gguf import GgufFile
from argosy_worker.models.gguf_meta import Metadata
from argosy_worker.models.weights import check_known, check_shape

ARCHITECTURES = ("llama", "qwen2", "qwen3")
_PERMUTED = ("llama",)

_ROPE_FACTORS = "rope_freqs.weight"
_NAMES = {
    "embed": "token_embd.weight",
    "head": "output.weight",
    "final_norm": "output_norm.weight",
}
_LAYER_NAMES = {
    "q": "attn_q.weight",
    "k": "attn_k.weight",
    "v": "attn_v.weight",
    "o": "attn_output.weight",
    "q.bias": "attn_q.bias",
    "k.bias": "attn_k.bias",
    "v.bias": "attn_v.bias",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
    "attn_norm": "attn_norm.weight",
    "mlp_norm": "ffn_norm.weight",
    "q_norm": "attn_q_norm.weight",
    "k_norm": "attn_k_norm.weight",
}


class GgufWeights:
    """A WeightSource over an open GGUF file."""

    def __init__(self, file: GgufFile) -> None:
        self._file = file
        self.config = read_config(file)
        for spec in set(self.config.layer_specs()):
            choose_layer(spec)  # before tensors of other kinds of layers are found unknown
        layers = range(self.config.layers)
        known = {
            *_NAMES.values(),
            _ROPE_FACTORS,
            *(tensor_name(f"layers.{i}.{n}") for i in layers for n in _LAYER_NAMES),
        }
        check_known(file.tensors, known)

    def has(self, role: str) -> bool:
        """Whether there is such a tensor."""
        return tensor_name(role) in self._file.tensors

    def matrix(self, role: str, rows: int, cols: int) -> QuantTensor:
        """A matrix in its storage format, rows in the order of the original checkpoint."""
        found = self._load(role, (rows, cols))
        order = self._order(role, rows)
        return found if order is None else found.permuted(order)

    def vector(self, role: str, size: int) -> Tensor:
        """A vector as fp32 [size]."""
        found = self._load(role, (size,)).dequantize().view(-1)
        order = self._order(role, size)
        return found if order is None else found[order]

    def rope_factors(self) -> Tensor | None:
        """Divisors of the rotary frequencies, fp32 [head_dim / 2], where the file has them (Llama 3.1 and later)."""
        if _ROPE_FACTORS not in self._file.tensors:
            return None
        return self._read(_ROPE_FACTORS, (self.config.head_dim // 2,)).dequantize().view(-1)

    def formats(self) -> str:
        """Storage formats by share of the parameters, without the norms: `Q4_1+Q8_0`."""
        sizes: Counter[str] = Counter()
        for info in self._file.tensors.values():
            if len(info.shape) > 1:
                sizes[info.format] += info.shape[0] * info.shape[1]
        return "+".join(name for name, _ in sizes.most_common())

    def _load(self, role: str, shape: tuple[int, ...]) -> QuantTensor:
        return self._read(tensor_name(role), shape)

    def _read(self, name: str, shape: tuple[int, ...]) -> QuantTensor:
        info = self._file.tensors.get(name)
        if info is None:
            raise ModelInvalidError(f"the file has no tensor {name!r}")
        check_shape(name, info.shape, shape)
        rows = shape[0] if len(shape) > 1 else 1
        return from_bytes(info.format, torch.from_numpy(self._file.read(name)), rows, shape[-1])

    def _order(self, role: str, rows: int) -> Tensor | None:
        part = role.rpartition(".")[2] if not role.endswith(".bias") else role.split(".")[-2]
        if self.config.architecture not in _PERMUTED or part not in ("q", "k"):
            return None
        dim = self.config.head_dim
        return torch.arange(rows).view(rows // dim, dim // 2, 2).transpose(1, 2).reshape(-1)


def tensor_name(role: str) -> str:
    """Name in the file of a role of `source.py`."""
    if role in _NAMES:
        return _NAMES[role]
    _, layer, part = role.split(".", 2)
    return f"blk.{layer}.{_LAYER_NAMES[part]}"


def read_config(file: GgufFile) -> DecoderConfig:
    """The decoder's shape from the metadata.

    Raises:
        ModelUnsupportedError: another architecture, or a key that changes what is computed and is not honoured.
        ModelInvalidError: a key is missing, has another type, or makes no sense.

    """
    meta = Metadata(file.metadata)
    arch = meta.text("general.architecture")
    if arch not in ARCHITECTURES:
        raise ModelUnsupportedError(f"architecture {arch!r} is not supported; supported are {', '.join(ARCHITECTURES)}")
    meta.check_understood(arch)
    hidden, heads = meta.integer(f"{arch}.embedding_length"), meta.integer(f"{arch}.attention.head_count")
    if heads < 1:
        raise ModelInvalidError(f"{arch}.attention.head_count is {heads}")
    head_dim = meta.integer(f"{arch}.attention.key_length", hidden // heads)
    if meta.integer(f"{arch}.attention.value_length", head_dim) != head_dim:
        raise ModelUnsupportedError("keys and values of different sizes are not supported")
    if meta.integer(f"{arch}.rope.dimension_count", head_dim) != head_dim:
        raise ModelUnsupportedError("rotary positions over a part of the head are not supported")
    context = meta.integer(f"{arch}.context_length")
    window = meta.integer(f"{arch}.attention.sliding_window", 0)
    embed = file.tensors.get("token_embd.weight")
    if embed is None or len(embed.shape) != 2:
        raise ModelInvalidError("the file has no matrix 'token_embd.weight'")
    config = DecoderConfig(
        architecture=arch,
        hidden=hidden,
        layers=meta.integer(f"{arch}.block_count"),
        heads=heads,
        kv_heads=meta.integer(f"{arch}.attention.head_count_kv", heads),
        head_dim=head_dim,
        ffn=meta.integer(f"{arch}.feed_forward_length"),
        vocab_size=embed.shape[0],
        # within the window, sliding and full attention are the same
        context_length=min(context, window) if window else context,
        rms_eps=meta.number(f"{arch}.attention.layer_norm_rms_epsilon"),
        rope_theta=meta.number(f"{arch}.rope.freq_base", 10000.0),
        rope_scaling=_rope_scaling(meta, arch),
        window=window,
        experts=meta.integer(f"{arch}.expert_count", 0),
        experts_used=meta.integer(f"{arch}.expert_used_count", 0),
        qk_norm=arch == "qwen3",
        tied="output.weight" not in file.tensors,
    )
    config.check()
    return config


def _rope_scaling(meta: Metadata, arch: str) -> LinearRope | None:
    """As llama.cpp reads it: without a type a factor is linear, and an older key holds it too; 0 means none."""
    kind = meta.text(f"{arch}.rope.scaling.type", "linear")
    older = meta.number(f"{arch}.rope.scale_linear", 0.0)
    factor = meta.number(f"{arch}.rope.scaling.factor", older)
    if kind == "none":
        return None
    if kind != "linear":
        raise ModelUnsupportedError(f"rope scaling {kind!r} is not supported; supported are 'none' and 'linear'")
    if factor == 0 or factor == 1:  # noqa: PLR1714  # two values with two meanings
        return None
    if not 0 < factor < math.inf:
        raise ModelInvalidError(f"metadata {arch}.rope.scaling.factor is {factor}; must be a positive number")
    return LinearRope(factor)

"""Decoder configuration and weights of a GGUF file.

Files of architecture `llama` hold the rows of q and k in the order of interleaved rotary pairs: the converter turns
the two halves of a head (first halves of all pairs, then second ones) into alternating rows. They are put back, so
that every model rotates halves and equals the original checkpoint. Other architectures are stored as they are.
"""

import math

import torch
from torch import Tensor

from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_worker.compute.config import DecoderConfig, LinearRope
from argosy_worker.compute.layer import choose_layer
from argosy_worker.compute.quant.formats import QuantTensor, from_plain
from argosy_worker.models.gguf import GgufFile
from argosy_worker.models.gguf_meta import Metadata
from argosy_worker.models.weights import ALL, check_known, limits_of, read_tensor, shape_of, storage

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

    def matrix(self, role: str, rows: slice = ALL, cols: slice = ALL) -> QuantTensor:
        """A matrix in its storage format, rows in the order of the original checkpoint."""
        return self._read(role, rows, cols)

    def vector(self, role: str, part: slice = ALL) -> Tensor:
        """A vector as fp32."""
        return self._read(role, part, ALL).dequantize().view(-1)

    def rope_factors(self) -> Tensor | None:
        """Divisors of the rotary frequencies, fp32 [head_dim / 2], where the file has them (Llama 3.1 and later)."""
        if _ROPE_FACTORS not in self._file.tensors:
            return None
        return read_tensor(self._file, _ROPE_FACTORS, (self.config.head_dim // 2,)).dequantize().view(-1)

    def formats(self) -> str:
        """Storage formats by share of the parameters, without the norms: `Q4_1+Q8_0`."""
        return storage(self._file.tensors.values())

    def _read(self, role: str, rows: slice, cols: slice) -> QuantTensor:
        name, shape = tensor_name(role), shape_of(self.config, role)
        if name not in self._file.tensors:
            raise ModelInvalidError(f"the file has no tensor {name!r}")
        order = row_order(self.config, role)
        if order is None:
            return read_tensor(self._file, name, shape, rows, cols)
        # rows change places within a head: whole heads are read
        dim = self.config.head_dim
        begin, end = limits_of(rows, shape[0])
        first, count = begin // dim * dim, (-(-end // dim) - begin // dim) * dim
        found = read_tensor(self._file, name, shape, slice(first, first + count), cols)
        order = order[begin:end] - first
        return found.permuted(order) if len(shape) > 1 else from_plain(found.dequantize()[:, order])


def row_order(config: DecoderConfig, role: str) -> Tensor | None:
    """For each row of a role, which row of the file's tensor it is: int64 [rows]; None where they are the same."""
    part = role.split(".", 2)[-1].removesuffix(".bias")
    if config.architecture not in _PERMUTED or part not in ("q", "k"):
        return None
    return torch.arange(shape_of(config, role)[0]).view(-1, config.head_dim // 2, 2).transpose(1, 2).reshape(-1)


def tensor_name(role: str) -> str:
    """Name in the file of a role of `weights.py`."""
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

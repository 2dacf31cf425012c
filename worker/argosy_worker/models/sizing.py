"""What a model will take, from its header alone: the same sums as the packer's, before any weight is read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from argosy_api.errors import ModelInvalidError, ModelUnsupportedError
from argosy_api.memory import Needs, kv_token_bytes
from argosy_api.pipeline import WHOLE, Cut, Place, layers_of
from argosy_api.spec.engine import EngineSpec, QuantizationSpec
from argosy_worker.compute.config import DecoderConfig, Experts, LayerSpec, window_of
from argosy_worker.compute.native import able
from argosy_worker.compute.quant.precision import Precision, floats_of, of_head, of_shape, own_form, own_kv, resolve
from argosy_worker.compute.quant.sizes import embedding_bytes, linear_bytes
from argosy_worker.core.blocks import blocks_of_window
from argosy_worker.models import hf_config
from argosy_worker.models.files import read_json
from argosy_worker.models.gguf import GgufFile
from argosy_worker.models.gguf_config import read_config
from argosy_worker.models.hf_quantized import read_settings
from argosy_worker.models.tensor_file import Opened
from argosy_worker.models.weights import storage

ALONE = Place()
MAX_CONFIG_BYTES = 16 * 1024 * 1024
_ROLES = {
    **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_qkv"), "qkv"),
    **dict.fromkeys(("ffn_gate", "ffn_up", "ffn_gate_exps", "ffn_up_exps"), "gate_up"),
    **dict.fromkeys(("ffn_down", "ffn_down_exps"), "down"),
    "attn_output": "o",
    "output": "head",
}
"""Of a GGUF file's matrices."""
_UNKNOWN = frozenset({"BF16"})
_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True, slots=True)
class Header:
    """What a model's files say before their weights."""

    config: DecoderConfig
    embedding: str
    """Storage format of the embedding."""
    formats: str
    """Of the matrices, for people."""
    held: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Storage formats of linears (roles, as `Linear` has them), where they are known one by one."""
    gguf: bool = False
    """Whether its files are read without torch."""


class Linear(NamedTuple):
    """A linear layer, or several that are computed as one."""

    role: str
    rows: int
    cols: int


def read_gguf(file: Path | Opened) -> Header:
    """The header of a GGUF file. Raises the ModelErrors of GgufFile and `gguf_config.read_config`."""
    with GgufFile(file) as found:
        config = read_config(found)
        held: dict[str, set[str]] = {}
        for name, tensor in found.tensors.items():
            if (role := _ROLES.get(name.removesuffix(".weight").split(".")[-1])) and name.endswith(".weight"):
                held.setdefault(role, set()).add(tensor.format)
        embedding = found.tensors["token_embd.weight"].format
        held.setdefault("head", {embedding})
        formats = {role: frozenset(names) for role, names in held.items()}
        return Header(config, embedding, storage(found.tensors.values()), formats, gguf=True)


def read_hf(raw: dict[str, Any]) -> Header:
    """The header that a `config.json` is. Raises the ModelErrors of `hf_config.read_config` and `read_settings`."""
    config, settings = hf_config.read_config(raw), read_settings(raw)
    dtype = raw.get("dtype") or raw.get("torch_dtype") or "bfloat16"
    if dtype not in _DTYPES:
        raise ModelInvalidError(f"config.json: dtype is {dtype!r}; known are {', '.join(_DTYPES)}")
    return Header(config, _DTYPES[dtype], str(settings["quant_method"]) if settings else _DTYPES[dtype])


def read_header(path: Path) -> Header:
    """The header of a model on this machine: a GGUF file, or a folder with one or with a config.json.

    Raises:
        ModelError: it is no model that can be served.

    """
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if len(files) > 1:
            raise ModelUnsupportedError(f"the folder has {len(files)} GGUF files; name one of them")
        if not files:
            return read_hf(read_json(path / "config.json", MAX_CONFIG_BYTES))
        path = files[0]
    return read_gguf(path)


def needs(
    header: Header,
    quantization: QuantizationSpec,
    engine: EngineSpec,
    *,
    device: str,
    max_model_len: int | None,
    integers: bool = True,
    native: bool = True,
    group: Place = ALONE,
) -> Needs:
    """What a worker would take on a `device`, cpu or cuda; of a group what each rank takes at most.

    `group`: any place in it. `integers`: whether its CPU has VNNI or AMX. `native`: whether it has the
    kernels of our own.

    Raises:
        ModelUnsupportedError: the device cannot compute it so; the message says what it can.

    """
    config = header.config.up_to(max_model_len)
    precision = resolve(
        quantization.weights, quantization.group_size, engine.compute, device, integers=integers, native=native
    )
    kv = own_kv(quantization.kv_cache, precision)
    activations = floats_of(precision, device)
    ranks = [group._replace(rank=rank) for rank in range(group.ranks)]
    parts = [layers_of(config.layers, group.stages, place.stage) for place in ranks]
    return Needs(
        weights=max(
            weights_bytes(config, precision, header, device=device, integers=integers, part=part, place=place)
            for part, place in zip(parts, ranks, strict=True)
        ),
        kv_token=kv_token_bytes(
            layers=max(map(len, parts)),
            kv_heads=max(len(place.cut.heads(config.kv_heads)) for place in ranks),
            head_dim=config.head_dim,
            kind=activations if kv == "auto" else kv,
        ),
        context=config.context_length,
        step=step_bytes(config, engine, 2 if activations == "bf16" else 4),
        heads=config.heads,
        kv_heads=config.kv_heads,
        kept=blocks_of_window(window_of(config.layer_specs()), engine.block_size),
        lean=header.gguf
        and (device, group.ranks, native) == ("cpu", 1, True)
        and able.whole(config, precision, kv, engine.block_size),
    )


def weights_bytes(
    config: DecoderConfig,
    precision: Precision,
    header: Header,
    *,
    device: str,
    integers: bool,
    part: range | None = None,
    place: Place = ALONE,
) -> int:
    """Bytes of all linears and of the embedding; of a `part` of the layers those of a rank, with the embedding and the
    head where it has any.
    """
    head = of_head(precision, device, integers=integers)
    floats = floats_of(precision, device)
    total = 0
    if place.rank == 0:
        total = embedding_bytes(
            rows=config.vocab_size, cols=config.hidden, stored=header.embedding, weights=precision.weights
        )
    for linear in linears(config, part, place.cut):
        of_role = head if linear.role == "head" else precision
        held = of_shape(of_role, linear.cols, linear.rows, device, integers=integers)
        router = linear.role == "router"
        total += linear_bytes(
            rows=linear.rows,
            cols=linear.cols,
            weights="none" if router else held.weights,
            group=0 if router else held.group,
            compute=floats if router else held.compute,
            own=own_form(header.held.get(linear.role, _UNKNOWN), held.weights),
        )
    return total


def linears(config: DecoderConfig, part: range | None = None, cut: Cut = WHOLE) -> Iterator[Linear]:
    """All linears of a model, as `build` makes them, or of a part; `cut`: what a rank has of them. The head has a copy
    of its own where it is tied.
    """
    specs = config.layer_specs()
    if part is None or part.start == 0:
        yield Linear("head", _mine(cut, config.vocab_size), config.hidden)
    for spec in specs if part is None else specs[part.start : part.stop]:
        yield from _of_layer(spec, cut)


def _mine(cut: Cut, size: int) -> int:
    return size if cut.parts == 1 else len(cut.outputs(size))


def _of_layer(spec: LayerSpec, cut: Cut) -> Iterator[Linear]:
    each, mine = spec.heads // spec.kv_heads, len(cut.heads(spec.kv_heads))
    yield Linear("qkv", (each + 2) * mine * spec.head_dim, spec.hidden)
    yield Linear("o", _mine(cut, spec.hidden), spec.heads * spec.head_dim)
    count = 1
    if isinstance(spec.mlp, Experts):
        count = spec.mlp.count
        yield Linear("router", count, spec.hidden)
    for _ in range(count):
        yield Linear("gate_up", 2 * _mine(cut, spec.ffn), spec.hidden)
        yield Linear("down", _mine(cut, spec.hidden), spec.ffn)


def step_bytes(config: DecoderConfig, engine: EngineSpec, width: int) -> int:
    """Activations of the largest step: what lives at once in a layer, and the logits with their sorted copy."""
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    wide = max(2 * config.ffn + config.hidden, 2 * queries + 2 * keys)
    if config.experts is not None:  # of all experts of a row at once
        wide = max(wide, config.experts.used * (3 * (config.expert_ffn or config.ffn) + config.hidden))
    return engine.max_batch_tokens * (2 * config.hidden + wide) * width + 3 * engine.max_running * config.vocab_size * 4

"""The kernels as they are launched for common models: what is compiled ahead of time in tests, and measured on GPUs.

Pure data: names and types as Triton's compiler takes them, what each launch reads, writes and computes, and which
instructions it counts on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from argosy_worker.compute.triton import paths, tiles
from argosy_worker.compute.triton.tiles import Heads, Tile

_KERNELS = "argosy_worker.compute.triton.kernels."
_WIDTHS = {"fp32": 4, "bf16": 2, "fp16": 2, "i8": 1}
MATRIX, COPY, WARPGROUP, WHOLE = "mma", "cp.async", "wgmma", "s8"
"""Tensor cores of a warp, copies that run beside the arithmetic, tensor cores of four warps (from sm_90 on), and that
these multiply bytes.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A kernel in one configuration."""

    name: str
    kernel: str
    """Module and function."""
    types: Mapping[str, str]
    """Argument -> `*bf16` (a pointer), `i32`, `fp32`."""
    constants: Mapping[str, int | float | bool]
    unaligned: frozenset[str] = field(default_factory=frozenset)
    """Arguments that need be no multiple of 16."""
    warps: int
    stages: int
    fusion: bool = True
    """Whether multiply and add may be one operation."""
    counts_on: frozenset[str] = field(default_factory=frozenset)


MODELS: Mapping[str, Heads] = {
    "SmolLM2-135M": Heads(heads=9, kv_heads=3, head_dim=64, width=2),
    "Llama-3.2-1B": Heads(heads=32, kv_heads=8, head_dim=64, width=2),
    "Llama-3.1-8B": Heads(heads=32, kv_heads=8, head_dim=128, width=2),
    "Phi-3-mini": Heads(heads=32, kv_heads=32, head_dim=96, width=2),
    "Gemma-3-4B": Heads(heads=8, kv_heads=4, head_dim=256, width=2),
    "gpt-oss-20b": Heads(heads=64, kv_heads=8, head_dim=64, width=2),
}
"""Shapes of attention."""
_PAGE = 16
_CODES = {"bf16": 0, "fp16": 0, "fp32": 0, "int8": 1, "fp8": 2}
_LOOSE = frozenset({"splits", "CU_ROWS", "TILE_SEQ", "TILE_BLOCK"})
_HELD = {"int8": "i8", "fp8": "i8"}
_CODED = ("", " in int8", " in fp8")


def attention(
    name: str, shape: Heads, tokens: int, *, kv: str = "bf16", split: bool = False, window: bool = False,
    softcap: bool = False, sinks: bool = False, invariant: bool = False,
) -> Case:  # fmt: skip
    """`paged_attention` for sequences of so many tokens in a step."""
    shape = replace(shape, coded=bool(_CODES[kv]))
    tile = tiles.invariant_tile(shape) if invariant else tiles.tile_for(shape, tokens)
    floats = "fp32" if shape.width == 4 else "bf16"
    modes = {"split": split, "window": window, "softcap": softcap, "sinks": sinks, "invariant": invariant}
    return Case(
        name=" ".join((name, "attention", f"{tokens} tokens", f"kv {kv}", *(mode for mode, on in modes.items() if on))),
        kernel=f"{_KERNELS}attention:paged_attention",
        types={
            "Q": f"*{floats}", "KV": f"*{_HELD.get(kv, kv)}", "SCALES": "*fp32", "SINKS": "*fp32",
            "OUT": "*fp32" if split else f"*{floats}", "SUMS": "*fp32",
            **dict.fromkeys(("TABLE", "CU_ROWS", "CONTEXT", "TILE_SEQ", "TILE_BLOCK"), "*i32"),
            "scale_log2": "fp32", "softcap": "fp32",
            **dict.fromkeys(("window", "q_stride", "table_stride", "splits"), "i32"),
        },
        constants={
            **_shape(shape), "PAGE": _PAGE, "BM": tile.rows, "BN": tile.keys, "SPLIT": split,
            "CHUNK": tiles.CHUNK if invariant else tiles.SHORT_RANGE, "SOFTCAP": softcap, "WINDOW": window,
            "CODE": _CODES[kv], "HAS_SINKS": sinks, "INVARIANT": invariant,
        },
        unaligned=_LOOSE | {"window", "table_stride", "TABLE", "CONTEXT"},
        warps=tile.warps,
        stages=tile.stages,
        fusion=not invariant,
        counts_on=frozenset() if shape.width == 4 else frozenset({_matrix(tile), COPY}),
    )  # fmt: skip


def _matrix(tile: Tile) -> str:
    return WARPGROUP if tile.rows >= 64 else MATRIX


def _shape(shape: Heads) -> dict[str, int]:
    return {"H": shape.heads, "KVH": shape.kv_heads, "D": shape.head_dim, "DP": shape.padded_dim}


def joining(name: str, shape: Heads, *, many: bool, sinks: bool = False, invariant: bool = False) -> Case:
    """`join_splits` after decoding."""
    return Case(
        name=f"{name} join of {'up to 64' if many else 'up to 16'}{' sinks' * sinks}{' invariant' * invariant}",
        kernel=f"{_KERNELS}attention:join_splits",
        types={
            "PARTS": "*fp32", "SUMS": "*fp32", "SINKS": "*fp32", "OUT": "*bf16",
            **dict.fromkeys(("CU_ROWS", "TILE_SEQ", "TILE_BLOCK"), "*i32"), "splits": "i32",
        },
        constants={
            **_shape(shape), "BM": tiles.tile_for(shape, 1).rows, "SP": tiles.MOST_SPLITS if many else 16,
            "HAS_SINKS": sinks, "INVARIANT": invariant,
        },
        unaligned=_LOOSE,
        warps=4,
        stages=1,
        fusion=not invariant,
    )  # fmt: skip


def turning(name: str, shape: Heads, *, kv: str, norm: bool, rotated: bool = True) -> Case:
    """`turn_and_store`."""
    size = shape.head_dim & -shape.head_dim
    return Case(
        name=f"{name} queries and keys, kv {kv}{' normed' * norm}{' rotated' * rotated}",
        kernel=f"{_KERNELS}cache:turn_and_store",
        unaligned=frozenset({"SLOTS"}),
        types={
            **dict.fromkeys(("Q", "K", "V", "TURNED"), "*bf16"), "KV": f"*{_HELD.get(kv, kv)}", "SCALES": "*fp32",
            "SLOTS": "*i32", **dict.fromkeys(("COS", "SIN", "Q_WEIGHT", "K_WEIGHT"), "*bf16"),
            **dict.fromkeys(("q_stride", "k_stride", "v_stride"), "i32"), "eps": "fp32",
        },
        constants={
            **_shape(shape), "PAGE": _PAGE, "HB": 8, "DIMS": shape.head_dim if rotated else 0, "NORM": norm,
            "CODE": _CODES[kv], "STAGES": size.bit_length() - 1, "FACTOR": size**-0.5,
            "MOST": 1e37 if _CODES[kv] else 3.3895313892515355e38, "QUERIES": True,
        },
        warps=4,
        stages=1,
    )  # fmt: skip


def weights(rows: int, bits: int, group: int, *, split: bool, bias: bool = False, code: int = 1) -> Case:
    """`int4_linear` or `int8_linear`, the latter also for e4m3 (code 2)."""
    tile = paths.tile_for(rows, bits, group)
    held = {"W": "*u8", "SCALE": "*bf16", "MIDDLE": "*bf16"} if bits == 4 else {"W": "*i8", "SCALE": "*fp32"}
    constants = {"GROUP": group, "BM": tile.rows, "BN": tile.outputs, "SPLIT": split, "HAS_BIAS": bias}
    constants.update({"HALF": tile.inputs // 2} if bits == 4 else {"BK": tile.inputs, "CODE": code})
    sizes = ("m", "n", "k", "x_stride", *(("blocks",) if bits == 4 else ()))
    return Case(
        name=f"{'fp' if code == 2 else 'int'}{bits} {_scaled(group)}, {rows} rows{' split' * split}{' bias' * bias}",
        kernel=f"{_KERNELS}linear:int{bits}_linear",
        types={
            "X": "*bf16", **held, "BIAS": "*bf16", "OUT": "*fp32" if split else "*bf16", **dict.fromkeys(sizes, "i32"),
        },
        constants=constants,
        unaligned=frozenset({"m", "blocks"}),
        warps=tile.warps,
        stages=tile.stages,
        counts_on=frozenset({WARPGROUP, COPY}),
    )  # fmt: skip


def coded(rows: int, *, split: bool) -> Case:
    """`coded_linear`."""
    tile = paths.coded_tile(rows)
    return Case(
        name=f"int8 by int8, {rows} rows{' split' * split}",
        kernel=f"{_KERNELS}linear:coded_linear",
        types={
            "X": "*i8", "X_SCALES": "*fp32", "W": "*i8", "SCALE": "*fp32", "BIAS": "*bf16",
            "OUT": "*fp32" if split else "*bf16", **dict.fromkeys(("m", "n", "k"), "i32"),
        },
        constants={"BM": tile.rows, "BN": tile.outputs, "BK": tile.inputs, "SPLIT": split, "HAS_BIAS": False},
        unaligned=frozenset({"m"}),
        warps=tile.warps,
        stages=tile.stages,
        counts_on=frozenset({WARPGROUP, COPY, WHOLE}),
    )  # fmt: skip


def _scaled(group: int) -> str:
    return f"groups of {group}" if group else "per output"


def grouped(rows: int, bits: int, group: int = 0, *, scatter: bool, bias: bool = False) -> Case:
    """`grouped_linear` with tiles of so many rows."""
    tile = paths.grouped_tile(rows, bits, group)
    held = {4: ("*u8", "*bf16"), 8: ("*i8", "*fp32"), 16: ("*bf16", "*bf16")}[bits]
    form = f"int{bits} {_scaled(group)}" if bits < 16 else "bf16"
    return Case(
        name=f"experts {form}, {rows} rows{' down' * scatter}{' bias' * bias}",
        kernel=f"{_KERNELS}experts:grouped_linear",
        types={
            "X": "*bf16", "W": held[0], "SCALE": held[1], "MIDDLE": "*bf16", "BIAS": "*bf16", "OUT": "*bf16",
            **dict.fromkeys(("ORDER", "TILES"), "*i32"),
            **dict.fromkeys(("n", "k", "x_stride", "used", "blocks", "groups"), "i32"),
        },
        constants={
            "BITS": bits, "GROUP": group, "BM": tile.rows, "BN": tile.outputs, "BK": tile.inputs, "SCATTER": scatter,
            "HAS_BIAS": bias,
        },
        unaligned=frozenset({"used", "blocks", "groups"}),
        warps=tile.warps,
        stages=tile.stages,
        counts_on=frozenset({WARPGROUP, COPY}),
    )  # fmt: skip


def routing(count: int, used: int, *, many: bool, normalized: bool = True) -> Iterator[Case]:
    """`pick_experts` and `order_pairs`, and the sum of each row's experts."""
    block = 1 << (count - 1).bit_length()
    yield Case(
        name=f"choice of {used} of {count} experts{' normalized' * normalized}",
        kernel=f"{_KERNELS}experts:pick_experts",
        types={
            "SCORES": "*bf16", "CHOSEN": "*i32", "WEIGHTS": "*fp32", "COUNTS": "*i32",
            "count": "i32", "used": "i32",
        },
        constants={"BLOCK": block, "UB": 1 << (used - 1).bit_length(), "NORMALIZED": normalized},
        unaligned=frozenset({"used"}),
        warps=1,
        stages=1,
    )  # fmt: skip
    pairs = 8192 if many else 64
    yield Case(
        name=f"order of {pairs} pairs among {count} experts",
        kernel=f"{_KERNELS}experts:order_pairs",
        types={
            **dict.fromkeys(("CHOSEN", "COUNTS", "ORDER", "TILES"), "*i32"),
            **dict.fromkeys(("pairs", "most", "count"), "i32"),
        },
        constants={"BM": paths.rows_of_tile(pairs, count), "BLOCK": block, "NB": paths.pairs_at_once(pairs)},
        unaligned=frozenset({"pairs", "most"}),
        warps=4,
        stages=1,
    )
    yield Case(
        name=f"sum of {used} experts",
        kernel=f"{_KERNELS}experts:join_experts",
        types={"PARTS": "*bf16", "WEIGHTS": "*fp32", "OUT": "*bf16", "columns": "i32", "used": "i32"},
        constants={"BLOCK": 1024},
        unaligned=frozenset({"used"}),
        warps=4,
        stages=1,
    )


def floating(bits: int, group: int, *, code: int = 1) -> Case:
    """`int4_floats` or `int8_floats`, the latter also of e4m3 (code 2)."""
    held = {"W": "*u8", "SCALE": "*bf16", "MIDDLE": "*bf16"} if bits == 4 else {"W": "*i8", "SCALE": "*fp32"}
    sizes = ("n", "k", *(("blocks",) if bits == 4 else ()))
    own = {"HALF": paths.half_of(group)} if bits == 4 else {"BK": min(group or 128, 128), "CODE": code}
    return Case(
        name=f"floats of {'fp' if code == 2 else 'int'}{bits}, {_scaled(group)}",
        kernel=f"{_KERNELS}linear:int{bits}_floats",
        types={**held, "OUT": "*bf16", **dict.fromkeys(sizes, "i32")},
        constants={"GROUP": group, "BN": 32, **own},
        unaligned=frozenset({"blocks"}),
        warps=4,
        stages=1,
    )


def others() -> Iterator[Case]:
    """Kernels of rows, and the sum of splits."""
    for columns, warps in ((2048, 4), (4096, 8), (8192, 16)):
        for part, code in ((False, 0), (True, 0), (True, 1), (True, 2)):
            yield Case(
                name=f"norm of {columns}{' after an addition' * part}{_CODED[code]}",
                kernel=f"{_KERNELS}rows:add_norm",
                types={
                    **dict.fromkeys(("X", "PART", "WEIGHT", "SUM"), "*bf16"), "OUT": "*i8" if code else "*bf16",
                    "SCALES": "*fp32" if code else "*bf16",
                    **dict.fromkeys(("columns", "x_stride", "part_stride"), "i32"), "eps": "fp32", "factor": "fp32",
                },
                constants={"BLOCK": columns, "HAS_PART": part, "CODE": code},
                warps=warps,
                stages=1,
            )  # fmt: skip
    coded = {"X": "*bf16", "OUT": "*i8", "SCALES": "*fp32"}
    for code in (1, 2):
        yield Case(
            name=f"rows{_CODED[code]}",
            kernel=f"{_KERNELS}rows:code_rows",
            types={**coded, "columns": "i32", "x_stride": "i32"},
            constants={"BLOCK": 4096, "CODE": code},
            warps=8,
            stages=1,
        )
        yield Case(
            name=f"gates silu{_CODED[code]}",
            kernel=f"{_KERNELS}rows:gated_codes",
            types={**coded, "ffn": "i32", "x_stride": "i32", "alpha": "fp32", "limit": "fp32"},
            constants={"BLOCK": 4096, "KIND": 0, "CODE": code},
            warps=8,
            stages=1,
        )
    for kind, activation in enumerate(("silu", "gelu", "clamp")):
        yield Case(
            name=f"gates {activation}",
            kernel=f"{_KERNELS}rows:gated",
            types={"X": "*bf16", "OUT": "*bf16", "ffn": "i32", "x_stride": "i32", "alpha": "fp32", "limit": "fp32"},
            constants={"BLOCK": 1024, "KIND": kind},
            warps=4,
            stages=1,
        )
    for bias in (False, True):
        yield Case(
            name=f"sum of splits{' bias' * bias}",
            kernel=f"{_KERNELS}linear:add_splits",
            types={"PARTS": "*fp32", "BIAS": "*bf16", "OUT": "*bf16", **dict.fromkeys(("m", "n", "splits"), "i32")},
            constants={"BLOCK": 512, "HAS_BIAS": bias},
            unaligned=frozenset({"m", "splits"}),
            warps=4,
            stages=1,
        )


def some() -> Iterator[Case]:
    """One of each kind: what the suite compiles."""
    llama = MODELS["Llama-3.1-8B"]
    yield attention("Llama-3.1-8B", llama, 1, split=True)
    yield attention("Llama-3.1-8B", llama, 1, kv="int8")
    yield attention("Llama-3.1-8B", llama, 512)
    yield joining("Llama-3.1-8B", llama, many=False)
    yield turning("Llama-3.1-8B", llama, kv="int8", norm=False)
    yield weights(1, 4, 128, split=True)
    yield weights(32, 8, 0, split=False)
    yield floating(4, 32)
    yield coded(512, split=False)
    yield grouped(16, 16, scatter=False)
    yield from routing(128, 8, many=True)
    yield from list(others())[:1]


def every() -> Iterator[Case]:
    """All."""
    for name, shape in MODELS.items():
        for tokens in (1, 4, 16, 512):
            for kv in ("bf16", "int8", "fp8"):
                yield attention(name, shape, tokens, kv=kv, split=tokens == 1)
        yield attention(name, shape, 1, kv="fp16")
        yield attention(name, shape, 1, invariant=True)
        yield attention(name, shape, 1, invariant=True, split=True)
        for many in (False, True):
            yield joining(name, shape, many=many)
        yield joining(name, shape, many=True, invariant=True)
        for kv in ("bf16", "int8", "fp8"):
            yield turning(name, shape, kv=kv, norm=name.startswith("Qwen"))
        whole = replace(shape, width=4)
        yield attention(name, whole, 1, kv="fp32")
        yield attention(name, whole, 512, kv="fp32")
    gpt, gemma = MODELS["gpt-oss-20b"], MODELS["Gemma-3-4B"]
    for tokens in (1, 512):
        yield attention("gpt-oss-20b", gpt, tokens, window=True, sinks=True)
        yield attention("Gemma-3-4B", gemma, tokens, window=True, softcap=True, split=tokens == 1)
    yield joining("gpt-oss-20b", gpt, many=False, sinks=True)
    for rows in (1, 32, 64):
        for bits, groups in ((4, (32, 64, 128)), (8, (0, 32, 128))):
            for group in groups:
                for split in (False, True):
                    yield weights(rows, bits, group, split=split)
    for bits, group in ((4, 32), (4, 128), (8, 0), (8, 32)):
        yield floating(bits, group)
    for rows in (1, 32, 64):
        yield weights(rows, 8, 0, split=rows == 1, code=2)
    yield floating(8, 0, code=2)
    for rows in (128, 512):
        for split in (False, True):
            yield coded(rows, split=split)
    for rows in (16, 64):
        for bits, group in ((16, 0), (8, 0), (8, 32), (8, 128), (4, 32), (4, 64), (4, 128)):
            yield grouped(rows, bits, group, scatter=False, bias=bits == 16)
        for bits, group in ((16, 0), (4, 128)):
            yield grouped(rows, bits, group, scatter=True)
    for count, used in ((8, 2), (128, 8)):
        yield from routing(count, used, many=count == 128, normalized=count != 8)
    yield from others()

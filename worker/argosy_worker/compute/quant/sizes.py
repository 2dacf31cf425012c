"""What weights take once they are packed. Pure: the plan before anything is loaded and the packer count by it alike.

Norms, biases and the zero points of a row are not counted: together less than a thousandth.
"""

from argosy_worker.compute.quant.layout import BLOCKS
from argosy_worker.compute.quant.precision import NATIVE, OWN_GROUP, OwnForm, own_form

_WIDTH = {"fp32": 4, "bf16": 2}
EMBEDDED = {
    "fp16": "F16",
    "bf16": "BF16",
    "int8": "INT8",
    "int4": "INT8",
    "fp8": "INT8",
    **dict.fromkeys(NATIVE, "INT8"),
}
"""Weights of the linears -> format of the embedding, where the checkpoint's is wider."""
EIGHT = own_form(["Q8_0"])
WIDE = ("F32", "F16", "BF16")


def linear_bytes(*, rows: int, cols: int, weights: str, group: int, compute: str, own: OwnForm = EIGHT) -> int:
    """Bytes of a linear [rows, cols] whose weights are held as `weights` and computed as `compute`: see `Precision`.

    `own`: how native kernels hold it.
    """
    count = rows * cols
    if weights in NATIVE:
        return count // OWN_GROUP * own.block_bytes
    groups = rows * (cols // group if group else 1)
    if weights == "int4":
        return count // 2 + 4 * groups  # scale and middle, in bf16
    if (weights == "int8" and compute in ("int8", "bf16")) or (weights, compute) == ("fp8", "bf16"):
        return count + 4 * groups
    if weights in ("none", compute):
        return count * _WIDTH[compute]
    tiles = -(-cols // 512) * 512 * (-(-rows // 16) * 16)  # FBGEMM pads: in features to 512, outputs to 16
    return 2 * tiles + 4 * rows


def embedding_bytes(*, rows: int, cols: int, stored: str, weights: str) -> int:
    """Bytes of the embedding: as it is stored, or narrower where the linears are."""
    held = EMBEDDED[weights] if stored in WIDE and weights in EMBEDDED else stored
    if weights in NATIVE and held != stored and cols % OWN_GROUP == 0:
        held = "Q8_0"
    block, width = BLOCKS[held]
    scales = rows * (cols // 32 if cols % 32 == 0 else 1) * 4 if held == "INT8" and stored != held else 0
    return rows * cols // block * width + scales

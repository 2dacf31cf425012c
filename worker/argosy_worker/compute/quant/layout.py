"""Block layouts of the storage formats: how many weights a block holds, in how many bytes. No torch."""

BLOCKS: dict[str, tuple[int, int]] = {
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
    "IQ4_NL": (32, 18),
    "MXFP4": (32, 17),
    "F8_E4M3": (1, 1),
    "F8_E5M2": (1, 1),
    "INT8": (1, 1),
    "UINT8": (1, 1),
    "INT4": (1, 1),
}
"""Format -> (weights in a block, bytes of a block)."""

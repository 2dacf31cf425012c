"""Which arithmetic goes with which weights: what a device cannot run is refused with what it can."""

import pytest

from argosy_api.errors import ModelUnsupportedError
from argosy_worker.compute.quant.precision import Precision, resolve


@pytest.mark.parametrize(
    ("asked", "device", "integers", "expected"),
    [
        (("auto", None, "auto"), "cpu", True, ("int8", 0, "int8")),
        (("auto", None, "auto"), "cpu", False, ("none", 0, "fp32")),
        (("auto", None, "fp32"), "cpu", True, ("none", 0, "fp32")),
        (("auto", None, "int8"), "cpu", False, ("int8", 0, "int8")),  # its kernel says why it cannot
        (("none", None, "auto"), "cpu", True, ("none", 0, "fp32")),
        (("auto", None, "auto"), "cuda", False, ("none", 0, "bf16")),
        (("auto", None, "fp32"), "cuda", False, ("none", 0, "fp32")),
        (("int8", None, "auto"), "cpu", True, ("int8", 0, "int8")),
        (("int8", None, "auto"), "cpu", False, ("int8", 0, "fp32")),
        (("int8", None, "fp32"), "cpu", True, ("int8", 0, "fp32")),
        (("int8", 64, "auto"), "cpu", True, ("int8", 64, "int8")),
        (("int4", None, "auto"), "cpu", True, ("int4", 32, "bf16")),
        (("int4", 128, "auto"), "cpu", False, ("int4", 128, "bf16")),
        (("fp16", None, "auto"), "cpu", True, ("fp16", 0, "fp32")),
        (("fp8", None, "auto"), "cpu", True, ("fp8", 0, "fp32")),
        (("bf16", None, "auto"), "cuda", False, ("bf16", 0, "bf16")),
        (("int8", None, "auto"), "cuda", False, ("int8", 0, "bf16")),
        (("int8", 64, "auto"), "cuda", False, ("int8", 64, "bf16")),
        (("int4", None, "auto"), "cuda", False, ("int4", 32, "bf16")),
        (("int4", 128, "bf16"), "cuda", False, ("int4", 128, "bf16")),
    ],
)
def test_auto_is_what_fits(asked, device, integers, expected):
    weights, group, compute = expected
    assert resolve(*asked, device, integers=integers) == Precision(weights=weights, group=group, compute=compute)


@pytest.mark.parametrize(
    ("asked", "device", "words"),
    [
        (
            ("fp16", None, "auto"),
            "cuda",
            "quantization.weights 'fp16' cannot be computed on this cuda device; it can: none, bf16, int8, int4, fp8",
        ),
        (("int4", None, "fp32"), "cuda", "leave it at auto, or at one of bf16"),
        (("none", None, "int8"), "cpu", "engine.compute 'int8' does not go with weights 'none'"),
        (("int4", None, "fp32"), "cpu", "leave it at auto, or at one of bf16"),
        (("none", None, "int3"), "cpu", "engine.compute 'int3' is unknown"),
        (("none", 32, "auto"), "cpu", "quantization.groupSize is for int4 and int8"),
    ],
)
def test_refusals_say_what_can_be(asked, device, words):
    with pytest.raises(ModelUnsupportedError, match=words):
        resolve(*asked, device, integers=True)

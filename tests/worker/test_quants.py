"""Which file of a repository has the quantization that was asked for."""

import pytest

from argosy_api.errors import ModelNotFoundError
from argosy_worker.fetch.quants import gguf_of, quant_of

FILES = [
    "README.md",
    "Model-0.6B-Q8_0.gguf",
    "Model-0.6B-Q4_K_M.gguf",
    "Model-0.6B.i1-IQ4_NL.gguf",
    "Model-0.6B-bf16.gguf",
    "mmproj-Q4_0.gguf",
    "big/Model-Q6_K-00001-of-00002.gguf",
    "big/Model-Q4_K_M.gguf",
]


@pytest.mark.parametrize(
    ("quant", "file"),
    [
        ("Q4_K_M", "Model-0.6B-Q4_K_M.gguf"),
        ("q8_0", "Model-0.6B-Q8_0.gguf"),
        ("IQ4_NL", "Model-0.6B.i1-IQ4_NL.gguf"),
        ("BF16", "Model-0.6B-bf16.gguf"),
        ("", "Model-0.6B-Q4_K_M.gguf"),
    ],
)
def test_by_name(quant, file):
    assert gguf_of(FILES, quant, "r") == file


@pytest.mark.parametrize("quant", ["Q4_0", "Q6_K", "Q4_K", "K_M", "Q4_K_M.gguf", ""])
def test_what_is_not_there_is_told_with_what_is(quant):
    names = [name for name in FILES if quant or not name.endswith(".gguf")]
    with pytest.raises(ModelNotFoundError) as caught:
        gguf_of(names, quant, "hf://o/r")
    assert caught.value.message.startswith("hf://o/r: has no GGUF file")
    assert ("BF16, IQ4_NL, Q4_K_M, Q8_0" in caught.value.message) == bool(quant)


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("Qwen3-0.6B-Q8_0.gguf", "Q8_0"),
        ("q4_0/m.gguf", ""),
        ("m.Q4_1.bin", ""),
        ("m-F16-Q4_1.gguf", "Q4_1"),
        ("mxfp4.gguf", "MXFP4"),
        ("sq8_0.gguf", ""),
    ],
)
def test_names_tell_quantizations(name, quant):
    assert quant_of(name) == quant


def test_a_repository_with_no_usual_one_gives_what_it_has():
    assert gguf_of(["a-Q2_K.gguf"], "", "r") == "a-Q2_K.gguf"

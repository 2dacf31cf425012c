"""The plan from a header counts what the packer counts, for every family and every way to hold weights."""

import pytest
import small_models

from argosy_api.resource import EngineSpec, QuantizationSpec
from argosy_worker.compute.native import library
from argosy_worker.models import load_model
from argosy_worker.models.sizing import needs, read_header


@pytest.mark.parametrize("name", ["llama", "mixtral", "qwen3-moe", "gemma3", "phi3", "gpt-oss"])
def test_what_is_counted_before_is_what_was_packed(name, tmp_path):
    small_models.model(name).save_pretrained(tmp_path)
    small_models.write_tokenizer(tmp_path)
    header = read_header(tmp_path)
    for weights in ("auto", "none", "fp16", "int8", "int4"):
        loaded = load_model(tmp_path, weights=weights, kv_cache="int8", threads=1)
        planned = needs(
            header, QuantizationSpec(weights=weights, kv_cache="int8"), EngineSpec(), device="cpu", max_model_len=None,
            integers=loaded.facts.compute == "int8" or weights != "int8", native=bool(library.kernels()),
        )  # fmt: skip
        assert planned.weights == loaded.facts.weights_bytes
        assert planned.kv_token == loaded.kv_bytes_per_block(1)
        assert planned.context == loaded.facts.context_length

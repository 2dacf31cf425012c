"""The plan from a header counts what the packer counts, for every family and every way to hold weights."""

import pytest
import small_models

from argosy_api.pipeline import Place
from argosy_api.resource import EngineSpec, QuantizationSpec
from argosy_worker.compute.native import library
from argosy_worker.compute.shared import Sharing
from argosy_worker.group.remote import RemoteLayers
from argosy_worker.models import load_model, load_part
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


@pytest.mark.parametrize(("stages", "parts"), [(2, 1), (3, 1), (1, 2), (2, 3)])
def test_what_is_counted_for_a_group_is_what_the_fullest_of_its_ranks_takes(stages, parts, smollm_path):
    group = Place(0, stages, parts)
    planned = needs(
        read_header(smollm_path), QuantizationSpec(), EngineSpec(), device="cpu", max_model_len=None,
        native=bool(library.kernels()), group=group,
    )  # fmt: skip
    sharing, rest = Sharing() if parts > 1 else None, RemoteLayers() if stages > 1 else None
    loaded = [load_model(smollm_path, threads=1, place=group, rest=rest, sharing=sharing)]
    loaded += [
        load_part(smollm_path, place=group._replace(rank=rank), sharing=sharing, threads=1)
        for rank in range(1, group.ranks)
    ]
    assert planned.weights == max(part.facts.weights_bytes for part in loaded)
    assert planned.kv_token == max(part.kv_bytes_per_block(1) for part in loaded)
    assert sum(len(part.stack.specs) for part in loaded) == parts * loaded[0].config.layers
    assert sum(part.layers * part.kv_heads for part in loaded) == loaded[0].config.layers * loaded[0].config.kv_heads

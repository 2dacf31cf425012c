"""Blocks from one worker to another over gRPC, in every type of keys and values, and of a windowed model."""

import pytest
import small_models

from argosy_worker.compute.attention.kv_types import KV_TYPES
from argosy_worker.models import load_model

PROMPT = [3 + 7 * i % 90 for i in range(150)]
LAYOUT_OF_ANOTHER_TYPE = {"fp32": "int8", "fp16": "bf16", "bf16": "fp16", "int8": "fp8", "fp8": "int8"}


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Small random models; `mistral` has a window of 48 in all layers."""
    folders = {}

    def made(name, kind):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp(name)
            small_models.model(name).save_pretrained(folders[name])
            small_models.write_tokenizer(folders[name])
        return load_model(folders[name], compute="fp32", kv_cache=kind, device="cpu", threads=1)

    return made


@pytest.mark.parametrize(("name", "kind"), [*(("llama", kind) for kind in KV_TYPES), ("mistral", "int8")])
async def test_what_is_fetched_answers_as_what_is_computed(load, make_rig, name, kind):
    """Also when the source has put it into host memory meanwhile. A window needs the last three blocks."""
    model, other = load(name, kind), load(name, LAYOUT_OF_ANOTHER_TYPE[kind])
    sampling = {"max_tokens": 12, "temperature": 0.9, "seed": 5, "logprobs": 2, "ignore_eos": True}
    little = {"model": model, "num_blocks": 11, "host_blocks": 20, "max_model_len": 170}
    async with make_rig(**little) as one, make_rig(model=model) as two, make_rig(model=other) as three:
        plain = await one.generate(PROMPT, **sampling)
        await one.generate([5, *PROMPT], "b", max_tokens=2)
        assert one.engine.view.host_cached_blocks >= 9
        answer = await two.generate(PROMPT, source=one.address, **sampling)
        assert answer.tokens == plain.tokens
        assert [row for c in answer.chunks for row in c.logprobs] == [row for c in plain.chunks for row in c.logprobs]
        assert answer.chunks[0].usage.cached_tokens == 144
        assert _imported(two) == (3 if name == "mistral" else 9)

        await three.generate(PROMPT, source=one.address, **sampling)
        assert _imported(three) == 0
        assert (await two.load()).used_blocks == 0


def _imported(rig):
    labels = {"model": "test", "worker": "w"}
    return rig.metrics.registry.get_sample_value("argosy_worker_kv_blocks_imported_total", labels)

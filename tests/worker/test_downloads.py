"""Downloads: they go on where they broke off, their checksums are held against the hub's, and who shares a cache waits."""

import os
import signal
import subprocess
import sys
import threading

import fake_hub as fakehub
import pytest
from fake_hub import WEIGHTS
from waiting import until

from argosy_api.backoff import Backoff
from argosy_api.errors import ModelDownloadError
from argosy_api.model_uri import ModelUri
from argosy_worker.fetch import hub, turns
from argosy_worker.fetch.uri import resolve

SIZE = len(WEIGHTS)


@pytest.fixture
def fake_hub(monkeypatch):
    with fakehub.serving() as fake:
        monkeypatch.setenv("HF_ENDPOINT", fake.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(hub, "RETRY", Backoff(first=0.01, cap=0.01))
        yield fake


def fetch(cache, progress=lambda _text, _share: None, uri="hf://org/repo"):
    return resolve(ModelUri.parse(uri), cache_dir=cache, progress=progress) / "model.safetensors"


def test_a_download_that_broke_off_asks_for_the_rest_only(fake_hub, tmp_path):
    fake_hub.cut_first = 3
    assert fetch(tmp_path).read_bytes() == WEIGHTS
    assert fake_hub.ranges == ["", f"bytes={SIZE // 2}-", f"bytes={SIZE * 3 // 4}-", f"bytes={SIZE * 7 // 8}-"]
    assert fake_hub.served == SIZE


def test_what_a_former_process_had_is_gone_on_with(fake_hub, tmp_path):
    fake_hub.cut_first, fake_hub.hold = 1, threading.Event()
    code = (
        "import sys, pathlib; from argosy_api.model_uri import ModelUri; from argosy_worker.fetch.uri import resolve;"
        "resolve(ModelUri.parse('hf://org/repo'), cache_dir=pathlib.Path(sys.argv[1]), progress=lambda *a: None)"
    )
    former = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "HF_ENDPOINT": fake_hub.url}
    )
    partial = f"hub/models--org--repo/blobs/{_sha256()}.partial"
    try:
        until(
            lambda: (tmp_path / partial).exists() and (tmp_path / partial).stat().st_size == SIZE // 2,
            what="half of it",
        )
        former.send_signal(signal.SIGKILL)
        former.wait(30)
    finally:
        former.kill()
        fake_hub.hold.set()
    fake_hub.hold, fake_hub.cut_first = None, 0
    assert fetch(tmp_path).read_bytes() == WEIGHTS
    assert fake_hub.ranges == ["", f"bytes={SIZE // 2}-"]
    assert not list(tmp_path.rglob("*.partial"))


def test_a_server_without_ranges_sends_all_of_it_again(fake_hub, tmp_path):
    fake_hub.cut_first, fake_hub.ignores_ranges = 1, True
    assert fetch(tmp_path).read_bytes() == WEIGHTS


def test_what_was_damaged_on_its_way_is_fetched_again(fake_hub, tmp_path):
    fake_hub.spoil_first = 1
    assert fetch(tmp_path).read_bytes() == WEIGHTS
    assert fake_hub.ranges == ["", ""]


def test_what_is_always_damaged_is_refused_and_not_kept(fake_hub, tmp_path):
    fake_hub.spoil_first = 1000
    with pytest.raises(ModelDownloadError, match=r"hf://org/repo: .*model\.safetensors: was damaged on its way"):
        fetch(tmp_path)
    assert [p.name for p in tmp_path.rglob("blobs/*") if p.stat().st_size == SIZE] == []


def test_a_partial_that_is_longer_than_the_file_is_written_anew(fake_hub, tmp_path):
    blob = tmp_path / f"hub/models--org--repo/blobs/{_sha256()}"
    blob.parent.mkdir(parents=True)
    blob.with_name(f"{blob.name}.partial").write_bytes(b"x" * (SIZE + 1))
    assert fetch(tmp_path).read_bytes() == WEIGHTS


def test_a_hub_that_tells_no_checksums_is_believed(fake_hub, tmp_path):
    fake_hub.sums, fake_hub.cut_first = False, 1
    assert fetch(tmp_path).read_bytes() == WEIGHTS
    assert fake_hub.served == SIZE


def test_another_commit_with_the_same_weights_moves_none(fake_hub, tmp_path, monkeypatch):
    fetch(tmp_path)
    monkeypatch.setattr(fakehub, "COMMIT", "f" * 40)
    fake_hub.files["config.json"] = b"{}"
    assert fetch(tmp_path, uri="hf://org/repo@v1").read_bytes() == WEIGHTS
    assert fake_hub.served == SIZE


def test_who_shares_a_cache_waits_and_says_so(fake_hub, tmp_path, monkeypatch):
    monkeypatch.setattr(turns, "LOOK_S", 0.01)
    fake_hub.hold = threading.Event()
    said, done = [], []
    workers = [
        threading.Thread(target=lambda: done.append(fetch(tmp_path, lambda text, _: said.append(text)).read_bytes()))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    until(lambda: fake_hub.served, what="one that downloads")
    until(lambda: any("another worker" in text for text in said), what="one that waits")
    fake_hub.hold.set()
    for worker in workers:
        worker.join(60)
    assert done == [WEIGHTS] * 4
    assert fake_hub.ranges == [""]


def test_where_nothing_can_be_locked_two_write_the_same(fake_hub, tmp_path, monkeypatch):
    def no_locks(*_args):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(turns.fcntl, "flock", no_locks)
    fake_hub.hold = threading.Event()
    done = []
    workers = [threading.Thread(target=lambda: done.append(fetch(tmp_path).read_bytes())) for _ in range(2)]
    for worker in workers:
        worker.start()
    until(lambda: len(fake_hub.ranges) == 2, what="two that download")
    fake_hub.hold.set()
    for worker in workers:
        worker.join(60)
    assert done == [WEIGHTS] * 2


def test_a_token_is_not_sent_where_the_hub_redirects_to(fake_hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with fakehub.serving() as store:
        fake_hub.elsewhere = store.url
        assert fetch(tmp_path).read_bytes() == WEIGHTS
        assert store.served == SIZE
        assert store.tokens == {""}
    assert fake_hub.tokens == {"hf_secret"}


def _sha256():
    return fakehub.hashlib.sha256(WEIGHTS).hexdigest()

"""`argosy quantize`, its worker's half: what is written loads here and in transformers, and failures leave nothing behind."""

import shutil
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import small_models
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from argosy_api.errors import InvalidArgumentError
from argosy_worker.evaluate.score import score
from argosy_worker.models import load_model
from argosy_worker.models.build import open_model
from argosy_worker.models.gguf import GgufFile
from argosy_worker.quantize import command, gguf_out, hf_out
from argosy_worker.quantize.command import Job, quantize
from argosy_worker.quantize.gptq import round_plainly
from argosy_worker.quantize.targets import FOLDER, GGUF

TOKENIZER = {
    "tokenizer_model": "gpt2", "tokenizer_pre": "gpt-2", "token_list": [*(chr(33 + i) for i in range(90)), "ab"],
    "token_merges": ["a b"],
}  # fmt: skip
TEXTS = [[1, *torch.randint(2, 320, (63,), generator=torch.Generator().manual_seed(i)).tolist()] for i in range(4)]


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(command, "LENGTH", 64)
    monkeypatch.setattr(command, "CALIBRATION", 8)
    monkeypatch.setattr(command, "HELD_OUT", 4)


def load(path):
    return load_model(path, weights="none", compute="fp32", device="cpu", threads=1)


def logprobs(path):
    return score(load(path), TEXTS).logprobs


def transformers_logprobs(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    with torch.inference_mode():
        for text in TEXTS:
            scores = model(torch.tensor([text])).logits[0].float().log_softmax(-1)
            found.append(scores[:-1].gather(1, torch.tensor(text[1:])[:, None])[:, 0])
    return torch.cat(found)


def job(source, to, out, **options):
    return Job(source=source, to=to, out=out, threads=1, **options)


def test_gguf_to_gguf_in_f32_changes_nothing(small_gguf, tmp_path):
    quantize(job(small_gguf, "f32", tmp_path / "out.gguf", check=False))
    assert torch.equal(logprobs(tmp_path / "out.gguf"), logprobs(small_gguf))
    with GgufFile(small_gguf) as before, GgufFile(tmp_path / "out.gguf") as after:
        assert {k for k, v in after.metadata.items() if not np.array_equal(v, before.metadata.get(k))} == {
            "general.quantization_version"
        }
        assert set(before.metadata) <= set(after.metadata)


@pytest.mark.parametrize("to", ["f32", "f16", "bf16"])
def test_floats_in_a_folder_are_those_of_transformers(small_gguf, small_folder, tmp_path, to):
    """From a file and from a folder alike, in number and in tokenizer."""
    outs = []
    for name, source in (("a", small_gguf), ("b", small_folder)):
        out = tmp_path / name
        quantize(job(source, to, out, check=False))
        theirs = transformers_logprobs(out)
        torch.testing.assert_close(logprobs(out), theirs, rtol=1e-3, atol=1e-4)
        tokenizer = AutoTokenizer.from_pretrained(out)
        assert tokenizer.decode(tokenizer.encode("so it is")) in ("so it is", "<s>so it is")
        assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "<|endoftext|>")
        outs.append(theirs)
    assert torch.equal(*outs)


@pytest.mark.parametrize("to", [t.name for t in GGUF.values() if t.grid is not None and not t.fallback])
def test_a_file_in_each_format(small_gguf, tmp_path, to):
    """Layers in the format, embedding in 8 bits, vectors as they were; the perplexity that is told is the file's."""
    out = tmp_path / "out.gguf"
    report = quantize(job(small_gguf, to, out))
    target = GGUF[to]
    with GgufFile(out) as file, GgufFile(small_gguf) as before:
        formats = {info.name.split(".", 2)[-1]: info.format for info in file.tensors.values()}
        assert formats["attn_q.weight"] == formats["ffn_down.weight"] == target.format
        assert file.tensors["token_embd.weight"].format == "Q8_0"
        assert formats["attn_norm.weight"] == "F32"
        assert file.metadata["general.file_type"] == target.file_type
        assert file.metadata["tokenizer.chat_template"] == before.metadata["tokenizer.chat_template"]
    assert [row.name for row in report.rows][1:-1] == ["plain rounding"] * (len(target.methods) > 1)
    assert report.rows[-1].nbytes == out.stat().st_size < small_gguf.stat().st_size
    assert report.rows[0].perplexity > 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


@pytest.mark.parametrize(("to", "fallback"), [("q4_k", "Q5_0"), ("q5_k", "Q5_1"), ("q6_k", "Q8_0")])
@pytest.mark.parametrize("method", ["gptq", "round"])
def test_k_quants_where_rows_are_whole_256s(tmp_path, monkeypatch, to, fallback, method):
    """The rest gets the format that llama.cpp takes there, and the report says what became of what."""
    monkeypatch.setitem(
        small_models.FAMILIES, "wide", ("llama", LlamaConfig, {**small_models.SHAPE, "intermediate_size": 512})
    )
    source, out = tmp_path / "source.gguf", tmp_path / "out.gguf"
    small_models.write_gguf("wide", small_models.model("wide"), source, TOKENIZER)
    report = quantize(job(source, to, out, method=method))
    with GgufFile(out) as file:
        formats = {info.name.split(".", 2)[-1]: info.format for info in file.tensors.values()}
    assert formats["ffn_down.weight"] == to.upper()
    assert {formats[f"{name}.weight"] for name in ("attn_q", "attn_output", "ffn_up", "ffn_gate")} == {fallback}
    assert dict(report.formats)[to.upper()] == 2
    assert report.rows[-1].perplexity == pytest.approx(report.rows[0].perplexity, rel=0.2)


def test_rows_of_q_and_k_keep_their_places(small_gguf, small_folder, tmp_path):
    """The file has them in the order of interleaved pairs; what is computed equals plain rounding of transformers' own."""
    quantize(job(small_gguf, "q8_0", tmp_path / "out.gguf", check=False))
    with ExitStack() as stack:
        written = open_model(tmp_path / "out.gguf", stack).weights
        original = open_model(small_folder, stack).weights
        for role in ("layers.0.q", "layers.1.k", "layers.1.v"):
            wanted = round_plainly(original.matrix(role).dequantize(), GGUF["q8_0"].grid, 32).dequantize()
            assert torch.equal(written.matrix(role).dequantize(), wanted)


@pytest.mark.parametrize("name", ["mixtral", "gpt-oss", "phi3"])
def test_tensors_that_hold_several_matrices(tmp_path, name):
    """Experts stacked in one tensor, q, k and v fused in one: each role gets back what was chosen for it."""
    source, out = tmp_path / "source.gguf", tmp_path / "out.gguf"
    small_models.write_gguf(name, small_models.model(name), source, TOKENIZER)
    quantize(job(source, "q4_0", out, method="round", check=False))
    roles = {"phi3": ["q", "k", "v", "gate", "up", "down"]}.get(
        name, ["q", *(f"experts.{i}.{part}" for i in (0, 3, 4) for part in ("gate", "up", "down"))]
    )
    with ExitStack() as stack:
        before, after = (open_model(path, stack).weights for path in (source, out))
        for role in (f"layers.1.{role}" for role in roles):
            wanted = round_plainly(before.matrix(role).dequantize(), GGUF["q4_0"].grid, 32).dequantize()
            assert torch.equal(after.matrix(role).dequantize(), wanted), role
            assert after.matrix(role).format == "Q4_0"


def test_experts_get_the_method(tmp_path):
    """They are no longer what plain rounding makes of them, and lose no more by it."""
    source = tmp_path / "source.gguf"
    small_models.write_gguf("mixtral", small_models.model("mixtral"), source, TOKENIZER)
    before, plain, after = quantize(job(source, "q4_0", tmp_path / "out.gguf", method="gptq")).rows
    assert after.perplexity - before.perplexity < plain.perplexity - before.perplexity
    with ExitStack() as stack:
        original, written = (open_model(path, stack).weights for path in (source, tmp_path / "out.gguf"))
        for role in ("layers.0.experts.1.up", "layers.1.experts.4.down"):
            rounded = round_plainly(original.matrix(role).dequantize(), GGUF["q4_0"].grid, 32).dequantize()
            assert not torch.equal(written.matrix(role).dequantize(), rounded)


@pytest.mark.parametrize("method", ["gptq", "search", "round"])
def test_the_same_job_writes_the_same_bytes(small_gguf, tmp_path, method):
    for name in ("a.gguf", "b.gguf"):
        quantize(job(small_gguf, "q4_0", tmp_path / name, method=method, check=False))
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


@pytest.mark.parametrize("to", ["int8", "int4", "fp8"])
@pytest.mark.parametrize("source", ["gguf", "folder"])
def test_compressed_tensors(small_gguf, small_folder, tmp_path, to, source):
    """transformers reads the folder through the compressed-tensors library, and finds the weights that were chosen; so
    do we, and both compute the same."""
    out, method = tmp_path / "out", "search" if to == "int4" else "round"
    report = quantize(job({"gguf": small_gguf, "folder": small_folder}[source], to, out, method=method))
    assert report.rows[-1].perplexity == pytest.approx(report.rows[0].perplexity, rel=0.1)
    torch.testing.assert_close(logprobs(out), transformers_logprobs(out), rtol=1e-3, atol=1e-4)
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = model(torch.tensor([TEXTS[0]])).logits  # its first pass decompresses
    assert logits.isfinite().all()
    error = {"int8": 0.02, "int4": 0.15, "fp8": 0.04}[to]
    with ExitStack() as stack:
        weights = open_model(small_folder, stack).weights
        for role, module in (
            ("q", model.model.layers[0].self_attn.q_proj),
            ("down", model.model.layers[0].mlp.down_proj),
        ):
            wanted = weights.matrix(f"layers.0.{role}").dequantize()
            assert (module.weight - wanted).norm() < error * wanted.norm()
            if to == "int8":
                coded = round_plainly(wanted, FOLDER["int8"].grid, 0)
                torch.testing.assert_close(module.weight.data, coded.dequantize(), rtol=1e-6, atol=1e-8)


def test_large_models_are_written_in_parts(small_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(hf_out, "SHARD_BYTES", 40_000)
    quantize(job(small_folder, "f32", tmp_path / "out", check=False))
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 2
    assert torch.equal(logprobs(tmp_path / "out"), logprobs(small_folder))


def test_passes_over_few_layers_at_a_time(small_gguf, tmp_path, monkeypatch):
    """With little memory the sums are gathered in several runs of the text, each with what was found before."""
    from argosy_worker.quantize import subject

    monkeypatch.setattr(subject, "_HESSIANS_SHARE", 1e-12)
    runs = []
    real = subject.feed
    monkeypatch.setattr(subject, "feed", lambda *args, **more: runs.append(1) or real(*args, **more))
    quantize(job(small_gguf, "q4_0", tmp_path / "out.gguf", check=False))
    assert len(runs) == 8  # two layers of four linears
    assert logprobs(tmp_path / "out.gguf").isfinite().all()


def test_text_of_a_file(small_gguf, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("It was a dark and stormy night; the rain fell in torrents. " * 12)
    report = quantize(job(small_gguf, "q4_0", tmp_path / "out.gguf", calibration=path))
    assert str(path) in report.text
    assert "for calibration" in report.text
    assert "for perplexity" in report.text


# --- what is refused


@pytest.mark.parametrize(
    ("to", "out", "options", "message"),
    [
        ("q3", "x.gguf", {}, "--to: 'q3' is no format of a GGUF file; must be one of f32"),
        ("q4_0", "folder", {}, "--to: 'q4_0' is no format of a folder of safetensors.*GGUF file: --out decides"),
        ("int4", "x.gguf", {}, "--to: 'int4' is no format of a GGUF file.*folder of safetensors: --out decides"),
        ("q8_0", "x.gguf", {"method": "gptq"}, "--method: 'gptq' is none for q8_0; must be one of round"),
        ("q4_0", "x.gguf", {"group_size": 64}, "--group-size: is int4's"),
        ("int4", "x", {"group_size": 48}, "--group-size: must be one of 32, 64, 128"),
        ("q4_0", "there.gguf", {}, "--out: .*there.gguf exists"),
        ("q4_0", "nowhere/x.gguf", {}, "--out: there is no folder"),
        ("q4_0", "x-00001-of-00002.gguf", {}, "--out: x-00001-of-00002.gguf is the name of a part"),
        ("f16", "model.safetensors", {}, "--out: safetensors go into a folder"),
        ("f16", "model.safetensors.index.json", {}, "--out: .* is the name of a part"),
        ("q4_0", "x.gguf", {"calibration": "missing.txt"}, "--calibration: .*missing.txt cannot be read: No such file"),
        ("q4_0", "x.gguf", {"calibration": "short.txt"}, "--calibration: .*short.txt has 5 tokens; at least 64"),
        ("q4_0", "x.gguf", {"calibration": "bytes.txt"}, "--calibration: .*bytes.txt is not UTF-8"),
        ("q8_0", "x.gguf", {"calibration": "short.txt", "check": False}, "--calibration: q8_0 is rounded plainly"),
    ],
)
def test_nonsense_is_refused_by_name(small_gguf, tmp_path, to, out, options, message):  # noqa: PLR0917
    (tmp_path / "there.gguf").write_bytes(b"mine")
    (tmp_path / "short.txt").write_text("short")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    before = sorted(path.name for path in tmp_path.iterdir())
    if "calibration" in options:
        options = {**options, "calibration": tmp_path / options["calibration"]}
    with pytest.raises(InvalidArgumentError, match=message):
        quantize(job(small_gguf, to, tmp_path / out, **options))
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert (tmp_path / "there.gguf").read_bytes() == b"mine"


def test_a_full_disk_is_seen_before(small_gguf, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 1 << 20))
    with pytest.raises(InvalidArgumentError, match=r"--out: about \d+ MiB are needed in .*, but 1 MiB are free"):
        quantize(job(small_gguf, "q4_0", tmp_path / "out.gguf"))


@pytest.mark.parametrize(("to", "out"), [("q4_0", "out.gguf"), ("int4", "out")])
def test_a_write_that_fails_leaves_nothing(small_gguf, tmp_path, monkeypatch, to, out):
    """The disk is full in the middle."""

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gguf_out.gguf.GGUFWriter, "write_tensor_data", full)
    monkeypatch.setattr(hf_out, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        quantize(job(small_gguf, to, tmp_path / out, check=False))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_appears_meanwhile_is_not_replaced(small_gguf, tmp_path, monkeypatch):
    out = tmp_path / "out.gguf"
    real = gguf_out.write

    def write(path: Path, *args, **more):
        real(path, *args, **more)
        out.write_bytes(b"mine")

    monkeypatch.setattr(gguf_out, "write", write)
    with pytest.raises(InvalidArgumentError, match=r"--out: .* exists by now"):
        quantize(job(small_gguf, "q4_0", out, check=False))
    assert out.read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]

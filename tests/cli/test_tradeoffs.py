"""`argosy tradeoffs`: which setups, what is computed from answers, and the whole of it with a small model."""

import importlib.util
import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import small_model

from argosy_api.errors import InvalidArgumentError
from argosy_api.resource import EngineSpec, QuantizationSpec
from argosy_cli.errors import CommandError
from argosy_cli.tradeoffs import measure, part, picture, report, run
from argosy_cli.tradeoffs.setups import Setup, setups
from argosy_cli.tradeoffs.worker import Answer, SetupRefusedError, measured_worker

ROOT = Path(__file__).resolve().parents[2]
FIGURES = measure.Figures(
    resident_bytes=300 << 20, kv_bytes_per_token=46080, one_stream=40.5, many_streams=150.25, prefill=900.4,
    perplexity=12.3456, change=0.0123, agreement=0.987, weights="Q4_1", compute="int8",
)  # fmt: skip


def test_every_choice_of_the_resource_is_a_setup():
    """A new value of a field is measured without another line."""
    names = [setup.name for setup in setups(None, "file:///draft.gguf")]
    assert names[0] == "fp32"
    for field, prefix, reference in (("weights", "weights", "none"), ("kv_cache", "KV cache", "fp32")):
        values = set(get_args(QuantizationSpec.model_fields[field].annotation)) - {"auto", reference}
        assert {f"{prefix} {value}" for value in values} <= set(names)
    assert {"speculation ngram", "speculation draft", "default"} <= set(names)
    assert len(names) == len(set(names))


def test_setups_differ_from_the_reference_in_one_thing():
    reference, *others = setups(2, None)
    assert reference.quantization == QuantizationSpec(weights="none", kv_cache="fp32")
    assert "speculation draft" not in [setup.name for setup in others]
    for setup in others:
        kv = setup.quantization.kv_cache != "fp32" and setup.name.startswith("KV")
        weights = setup.name.startswith("weights")
        guesses = setup.engine.speculative.method != "off" and setup.name.startswith("speculation")
        assert [kv, weights, guesses].count(True) == (setup.name != "default")
        assert setup.engine.threads == 2


def test_perplexity_and_agreement():
    found = [(math.log(0.5), 3), (math.log(0.125), 4)]
    assert measure.perplexity(found) == pytest.approx(4.0)
    assert measure.agreement(found, [(0.0, 3), (0.0, 5)]) == 0.5


def test_tokens_that_come_with_the_first_one_have_no_time_of_their_own():
    assert measure._rate(Answer([1, 2, 3, 4], [1.0, 1.0, 1.5, 2.0], [])) == 2.0
    assert math.isnan(measure._rate(Answer([1], [1.0], [])))


def test_the_page_and_the_json():
    rows = (report.Row("fp32", FIGURES), report.Row("weights fp8", None, "cannot be computed on this cpu device"))
    found = report.Found("file:///m.gguf", {"cores": 2, "instructions": "avx512-vnni"}, "some text", rows)
    assert report.markdown(found).splitlines()[2:] == [
        "|  | resident MiB | KV bytes/token | 1 stream | 16 streams | prefill | perplexity | change | same best token |",
        "|---|---|---|---|---|---|---|---|---|",
        "| fp32 | 300 | 46080 | 40.5 | 150.2 | 900 | 12.346 | +1.23% | 98.7% |",
        "",
        "- weights fp8: cannot be computed on this cpu device",
    ]
    document = json.loads(found.to_json())
    assert document["rows"][0]["figures"]["one_stream"] == 40.5
    assert document["rows"][1] == {
        "name": "weights fp8",
        "figures": None,
        "refused": "cannot be computed on this cpu device",
    }


def test_the_picture():
    """One bar for each figure of each setup, in a sound SVG; names are escaped."""
    drawn = ET.fromstring(picture.draw("<m>", [("fp32", FIGURES), ("a & b", FIGURES)]))
    tag = "{http://www.w3.org/2000/svg}"
    assert len(drawn.findall(f"{tag}rect")) == 1 + 2 * len(picture.PANELS)
    assert {"<m>", "fp32", "a & b", "+1.23%"} <= {text.text for text in drawn.findall(f"{tag}text")}


@pytest.mark.parametrize(
    ("only", "message"),
    [
        (("weights int9",), "--only: 'weights int9' is in none of fp32, weights fp16"),
        ((), "--out: .*tradeoffs.md exists"),
    ],
)
def test_nonsense_is_refused_before_anything_runs(tmp_path, only, message):
    if not only:
        (tmp_path / "tradeoffs.md").write_text("mine")
    with pytest.raises(InvalidArgumentError, match=message):
        run.chosen(run.Request(uri="file:///m", out=tmp_path, only=only))


@pytest.mark.parametrize(
    ("model", "message"),
    [("/nowhere", "MODEL: there is no file or folder"), ("sim://x", "MODEL: a simulated model has nothing to measure")],
)
def test_models_that_cannot_be_measured(model, message):
    with pytest.raises(InvalidArgumentError, match=message):
        run.model_uri(model)


@pytest.fixture
def short(monkeypatch):
    for name, value in {
        "SEQUENCES": 4,
        "LENGTH": 48,
        "PROMPT": 16,
        "NEW": 8,
        "LONG": 80,
        "ROUNDS": 1,
        "STREAMS": 4,
    }.items():
        monkeypatch.setattr(measure, name, value)


async def test_a_small_model_from_end_to_end(tmp_path, short):
    """Real workers: the reference, another type, and one that this machine refuses; three files, figures that make sense."""
    path = tmp_path / "small.gguf"
    small_model.write_gguf(small_model.make(), path)
    told = []
    request = run.Request(uri=run.model_uri(str(path)), out=tmp_path / "out", only=("fp8",), threads=1)
    found = await run.run(request, lambda stage, fraction: told.append((stage, fraction)))
    reference = found.rows[0].figures
    assert (reference.change, reference.agreement, reference.compute) == (0.0, 1.0, "fp32")
    assert reference.kv_bytes_per_token == 2 * 2 * 2 * 16 * 4  # layers, keys and values, heads, their size, bytes
    assert min(reference.one_stream, reference.many_streams, reference.prefill, reference.resident_bytes) > 0
    assert 1 < reference.perplexity < small_model.VOCAB * 10
    assert [row.name for row in found.rows] == ["fp32", *(s.name for s in setups(1, None) if "fp8" in s.name)]
    for row in found.rows[1:]:
        assert (row.figures is None) == bool(row.refused)
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == sorted(run.FILES)
    assert told[0] == ("fp32: loading", 0.0)
    assert [fraction for _, fraction in told] == sorted(fraction for _, fraction in told)


async def test_a_run_that_was_stopped_is_gone_on_with(tmp_path, short, monkeypatch):
    """What was measured stays, to the last bit; what was not is compared with the same text's scores."""
    path = tmp_path / "small.gguf"
    small_model.write_gguf(small_model.make(), path)
    request = run.Request(uri=run.model_uri(str(path)), out=tmp_path / "out", only=("KV cache int8",), threads=1)
    real, begun = run.measured_worker, []

    def measured(uri, setup, environment):
        begun.append(setup.name)
        if begun == ["fp32", "KV cache int8"]:
            raise KeyboardInterrupt
        return real(uri, setup, environment)

    monkeypatch.setattr(run, "measured_worker", measured)
    with pytest.raises(KeyboardInterrupt):
        await run.run(request, lambda *_: None)
    assert [one.name for one in (tmp_path / "out").iterdir()] == [part.NAME]
    kept = part.load(request.out, {"model": request.uri, "draft": None, "threads": 1, "seed": 0})
    with pytest.raises(InvalidArgumentError, match=r"--out: .* is the unfinished run of .*'seed': 0"):
        await run.run(replace(request, seed=1), lambda *_: None)
    found = await run.run(request, lambda *_: None)
    assert begun == ["fp32", "KV cache int8", "KV cache int8"]
    assert found.rows[0] == kept.rows[0]
    assert found.rows[1].figures.change == pytest.approx(0, abs=0.02)
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == sorted(run.FILES)
    assert report.Found.from_json((tmp_path / "out/tradeoffs.json").read_text()) == found


def test_another_file_is_no_unfinished_run(tmp_path):
    (tmp_path / part.NAME).write_text("{}")
    with pytest.raises(InvalidArgumentError, match="is no unfinished run; remove it"):
        part.load(tmp_path, {})


def test_the_documentation_has_the_markers():
    """`make tradeoffs` finds its places."""
    spec = importlib.util.spec_from_file_location("tradeoffs_page", ROOT / "tools/tradeoffs_page.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    for name in page.PAGES:
        written = page.with_table((ROOT / name).read_text(encoding="utf-8"), "| x |\n")
        assert f"{page.BEGIN}\n| x |\n{page.END}" in written
    with pytest.raises(ValueError, match="the page has no"):
        page.with_table("no markers", "")


async def test_a_model_that_cannot_be_served_ends_the_run(tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF")
    request = run.Request(uri=run.model_uri(str(path)), out=tmp_path / "out", threads=1)
    with pytest.raises(CommandError, match="is no sound GGUF file"):
        await run.run(request, lambda *_: None)
    assert not (tmp_path / "out").exists()


async def test_a_setup_that_is_refused_is_told_in_the_workers_own_words(tmp_path):
    path = tmp_path / "small.gguf"
    small_model.write_gguf(small_model.make(), path)
    wrong = Setup("wrong", EngineSpec(device="cpu", compute="bf16", threads=1), QuantizationSpec())
    import os

    with pytest.raises(SetupRefusedError, match="bf16"):
        async with measured_worker(f"file://{path}", wrong, os.environ):
            pass

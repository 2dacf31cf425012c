"""The benchmarks that people run, by the commands of docs/clients.md: what they report of their requests, not how fast."""

import json

import pytest
from clients_kit import LIMIT_S, pointed_at, run, snippets

COMMANDS = dict(snippets("docs/clients.md", "bash"))
CONFIGURATION = dict(snippets("docs/clients.md", "yaml"))


@pytest.fixture
def bench(environment, server, tokenizer_folder, tmp_path):
    """A function: runs the documented command of a benchmark in a folder of its own, and returns that folder."""
    (tmp_path / "tokenizer").symlink_to(tokenizer_folder)

    def go(name, command=None):
        where = environment(name)
        if name in CONFIGURATION:
            (tmp_path / "config.yml").write_text(pointed_at(server, CONFIGURATION[name]))
        home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        run(where, server, "bash", "-ec", pointed_at(server, command or COMMANDS[name]), cwd=tmp_path, **home)
        return tmp_path

    return go


@pytest.mark.timeout(2 * LIMIT_S)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_guidellm(bench, path):
    command = COMMANDS["guidellm"].replace(",model=smollm2", f",model=smollm2,request_format={path}")
    report = json.loads((bench("guidellm", command) / "out.json").read_text())
    (benchmark,) = report["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"], totals["incomplete"]) == (8, 0, 0)
    for request in benchmark["requests"]["successful"]:
        assert request["output_tokens"] == 16
        assert request["output"]


@pytest.mark.timeout(2 * LIMIT_S)
def test_aiperf(bench):
    (found,) = bench("aiperf").glob("out/**/profile_export_aiperf.json")
    report = json.loads(found.read_text())
    assert report["request_count"]["avg"] == 8
    assert not report.get("error_summary")
    assert report["output_sequence_length"]["avg"] > 0
    lines = [json.loads(line) for line in found.with_name("profile_export.jsonl").read_text().splitlines()]
    assert [line.get("error") for line in lines] == [None] * 8


@pytest.mark.timeout(2 * LIMIT_S)
def test_inference_perf(bench):
    (found,) = bench("inference-perf").glob("out/**/summary_lifecycle_metrics.json")
    report = json.loads(found.read_text())
    assert report["failures"]["count"] == 0
    assert report["successes"]["count"] == 10
    assert report["successes"]["output_len"]["mean"] > 0

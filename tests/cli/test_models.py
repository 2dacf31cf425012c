"""`argosy quantize`: what a user sees."""

import subprocess
import sys

import pytest
from rich.console import Console
from typer.testing import CliRunner

from argosy_api.errors import InvalidArgumentError
from argosy_cli import models
from argosy_cli.main import app
from argosy_worker.quantize.command import Loss, Report


def test_the_table():
    """Perplexities beside each other, and what the text was."""
    rows = (
        Loss("as it was", 2 << 20, 10.0),
        Loss("plain rounding", 1 << 20, 12.0),
        Loss("x.gguf (gptq)", 1 << 20, 11.0),
    )
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(models.table(Report("gptq", "text", rows)))
    text = console.export_text()
    assert [line.split("│")[1:5] for line in text.splitlines() if "│" in line] == [
        [f" {'as it was':14} ", " 2.0 ", " 10.000     ", "         "],
        [f" {'plain rounding':14} ", " 1.0 ", " 12.000     ", " +20.00% "],
        [f" {'x.gguf (gptq)':14} ", " 1.0 ", " 11.000     ", " +10.00% "],
    ]


def test_nothing_is_measured_when_nobody_asks():
    found = models.table(Report("round", "", (Loss("x.gguf (round)", 1 << 20, None),)))
    assert [list(column.cells) for column in found.columns] == [["x.gguf (round)"], ["1.0"], ["-"], [""]]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("/nowhere/x.gguf", "MODEL: there is no file or folder /nowhere/x.gguf"),
        ("sim://x", "MODEL: a simulated model has no weights"),
        ("ftp://x", "model.uri: is no model source"),
    ],
)
def test_a_wrong_model_is_refused_by_name(model, message):
    with pytest.raises(InvalidArgumentError, match=f"^{message}"):
        models.resolve(model, lambda _stage, _fraction: None)


def test_without_the_workers_packages(tmp_path):
    """The command line is there without torch; this command says what it lacks."""
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    program = "import sys; sys.path.insert(0, sys.argv.pop(1)); from argosy_cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), "quantize", "x.gguf", "--to", "q4_0", "--out", "y.gguf"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (
        1, "error: this needs the worker's packages (torch is missing): pip install 'argosy[worker]'\n",
    )  # fmt: skip


def test_the_help_starts_fast_and_names_the_formats():
    text = CliRunner().invoke(app, ["quantize", "--help"]).output
    assert "q4_0" in text
    assert "int4" in text

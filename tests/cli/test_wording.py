"""Help speaks of texts, paths and numbers, not of types."""

import re

import pytest
import typer
from typer.testing import CliRunner

from argosy_cli.main import app
from argosy_cli.wording import in_words

COMMANDS = ["", *typer.main.get_command(app).commands]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_no_type_of_python(command):
    done = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "100", "TERM": "dumb"})
    assert done.exit_code == 0
    assert re.findall(r"<(?:bool|str|int|float|list|path|dir|file)\b|\bPath\b", done.output) == []
    usage = re.search(r"Usage: .*", done.output)[0]
    assert not set("{}") & set(usage), usage
    assert "[[" not in usage


def test_the_usage_is_as_of_other_programs():
    told = {name: CliRunner().invoke(app, [name, "--help"]).output for name in ("up", "plan", "run", "top")}
    assert "up [OPTIONS] FILE..." in told["up"]
    assert "plan [OPTIONS] [FILE]..." in told["plan"]
    assert "run [OPTIONS] MODEL [PROMPT]" in told["run"]
    assert "top [OPTIONS] [NAME]" in told["top"]


@pytest.mark.parametrize(
    ("told", "word"),
    [("<bool>", ""), ("<str>", "TEXT"), ("<int range>", "N"), ("<float range>", "X"), ("<path>", "PATH"),
     ("<list[Path]>", "PATH"), ("<list[str]>", "TEXT"), ("leastWork|firstCome", "leastWork|firstCome")],
)  # fmt: skip
def test_types_become_words(told, word):
    assert in_words(told) == word

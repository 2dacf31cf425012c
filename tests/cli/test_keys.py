"""`argosy key`: what it prints, and that routers understand what they are told."""

import json
import shlex

import pytest
from typer.testing import CliRunner

from argosy_api.access import parse_entry, split_key
from argosy_cli.main import app
from argosy_router.tenants import keys


def test_a_key_in_a_directory_is_known_to_routers(tmp_path):
    done = CliRunner().invoke(app, ["key", "team-a", "--admin", "--into", str(tmp_path / "keys")])
    assert done.exit_code == 0
    made = done.stdout.strip()
    book, wrong = keys.read({p.name: p.read_text() for p in (tmp_path / "keys").iterdir()})
    assert not wrong
    found = book.find(made)
    assert found is not None
    assert (found.tenant, found.admin) == ("team-a", True)
    assert book.find(made[:-1] + ("0" if made[-1] != "0" else "1")) is None
    assert split_key(made)[1] not in next((tmp_path / "keys").iterdir()).read_text()


def test_the_command_for_a_cluster_is_whole():
    done = CliRunner().invoke(app, ["key", "team-a", "-n", "models", "--to", "more-keys"])
    words = shlex.split(done.stderr.splitlines()[1])
    assert words[:-1] == ["kubectl", "--namespace", "models", "patch", "secret", "more-keys", "-p"]
    (entry,) = json.loads(words[-1])["stringData"].items()
    assert entry[0] == split_key(done.stdout.strip())[0]
    assert parse_entry(entry[1]).tenant == "team-a"


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "-a"])
def test_a_name_that_is_none_is_refused(name):
    assert CliRunner().invoke(app, ["key", "--", name]).exit_code != 0

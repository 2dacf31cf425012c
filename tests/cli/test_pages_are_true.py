"""Pages and build files say what is so."""

import os
import pty
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from argosy_worker.models.families import FAMILIES

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_of_families_is_the_codes():
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \| `([\w-]+)` \|", (ROOT / "docs/models.md").read_text(), re.MULTILINE)
    assert rows == [(family.model_type, family.architecture) for family in FAMILIES]


def test_who_only_looks_gets_no_developers_tools():
    """`make demo` installs what a user needs; what the developers' setup has installed is enough for it, too."""
    done = subprocess.run(
        ["make", "-n", "-B", "demo"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert re.findall(r'--editable "(.*)"', done.stdout) == [".[cli]"]
    done = subprocess.run(
        ["make", "-n", "-B", "check"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert re.findall(r'--editable "(.*)"', done.stdout) == [".[dev]"]


@pytest.mark.parametrize(("answer", "installs"), [("n", False), ("", False), ("y", True)])
def test_images_ask_at_a_terminal_before_they_install_anything(tmp_path, answer, installs):
    """Where there is neither docker nor buildah; a stand-in for apt-get says whether it was called, and fails."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "env", "sed", "head", "mkdir", "dirname", "cat", "true"):
        (tools / name).symlink_to(shutil.which(name))
    for name, script in {
        "id": "echo 0",
        "apt-get": f"echo called >> {tmp_path}/apt; exit 1",
        "python3": "exit 0",
    }.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    here, its = pty.openpty()
    (tmp_path / "deploy").mkdir()
    for part in ("deploy/build-images.sh", "deploy/valkey.Dockerfile", "pyproject.toml"):
        shutil.copy(ROOT / part, tmp_path / part)
    os.write(here, f"{answer}\n".encode())
    done = subprocess.run(
        ["bash", "deploy/build-images.sh", "valkey"], cwd=tmp_path, env={"PATH": str(tools)}, stdin=its,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    os.close(here)
    os.close(its)
    assert done.returncode == 1
    assert (tmp_path / "apt").exists() == installs
    assert ("apt-get failed" if installs else "buildah is needed") in done.stderr


def test_setup_says_what_it_does_before_each_part():
    """Minutes of silence look like a hang."""
    done = subprocess.run(
        ["make", "-n", "-B", "setup"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    lines = done.stdout.splitlines()
    told = [i for i, line in enumerate(lines) if line.startswith("echo")]
    work = [i for i, line in enumerate(lines) if "pip install" in line or "-m venv" in line]
    assert len(told) == 4, done.stdout
    assert all(any(t < w for t in told) for w in work)
    assert [line for line in lines if "apt-get" in line] == []

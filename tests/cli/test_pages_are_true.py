"""Pages and build files say what is so."""

import re
import subprocess
from pathlib import Path

from argosy_worker.models.families import FAMILIES

ROOT = Path(__file__).resolve().parents[2]


def test_the_table_of_families_is_the_codes():
    rows = re.findall(r"^\| [^|]+ \| `(\w+)` \| `([\w-]+)` \|", (ROOT / "docs/models.md").read_text(), re.MULTILINE)
    assert rows == [(family.model_type, family.architecture) for family in FAMILIES]


def test_setup_says_what_it_does_before_each_part():
    """Minutes of silence look like a hang."""
    done = subprocess.run(
        ["make", "-n", "-B", "setup"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    lines = done.stdout.splitlines()
    told = [i for i, line in enumerate(lines) if line.startswith("echo")]
    work = [i for i, line in enumerate(lines) if "pip install" in line or "-m venv" in line]
    assert len(told) == 4
    assert all(any(t < w for t in told) for w in work)
    assert [line for line in lines if "apt-get" in line] == []

"""Pin what the images install: writes deploy/requirements/*.txt from the extras of pyproject.toml.

    python deploy/lock.py

The pins are the versions that pip chooses today for CPython 3.11 on Linux. Run it to move the images to newer versions.
"""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "deploy/requirements"
TORCH = "2.13.0"
# The images' Python may be older than the one that runs this: below CPython 3.11.3 redis wants async-timeout.
ALWAYS = ["async-timeout"]
HEAD = "# Written by deploy/lock.py; do not edit. Installed with --no-deps: this list is complete.\n"


def resolve(*requirements: str) -> dict[str, str]:
    """Every distribution that pip would install for these requirements, and its version."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-"]
    report = subprocess.run(  # noqa: S603 - fixed words and our own extras
        [*command, *requirements], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    items = (item["metadata"] for item in json.loads(report.stdout)["install"])
    return {item["name"].lower().replace("_", "-"): item["version"] for item in items}


def main() -> None:
    """Write one list per image."""
    TARGET.mkdir(exist_ok=True)
    for component in ("operator", "router", "worker"):
        # The local version +cpu is PyTorch's name for its build without CUDA. The CUDA build brings libraries of
        # its own, so torch is no part of the list: deploy/build-images.sh adds the variant that is asked for.
        extra = [f"torch=={TORCH}+cpu"] if component == "worker" else []
        extras = component if component == "operator" else f"{component},tracing"
        pins = resolve(f".[{extras}]", *ALWAYS, *extra)
        lines = [f"{name}=={version}\n" for name, version in sorted(pins.items()) if name not in ("argosy", "torch")]
        (TARGET / f"{component}.txt").write_text(HEAD + "".join(lines))


if __name__ == "__main__":
    main()

"""Regenerate what is generated: protobuf modules, and the CRD in the chart.

python tools/generate.py            write
python tools/generate.py --check    compare; exit code 1 and the names when something is out of date
"""

import argparse
import os
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ["argosy_api/v1/worker.proto", "argosy_api/inference/inference.proto"]
CRD = Path("charts/argosy/files/crds/inferencedeployments.yaml")


def generated(target: Path) -> None:
    """Write all generated files under `target`, laid out as in the repository."""
    out = target / "api"
    out.mkdir(parents=True, exist_ok=True)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where the mypy plugin lives
    args = ["protoc", f"-I{ROOT / 'api'}", f"-I{files('grpc_tools') / '_proto'}"]
    args += [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    if protoc.main([*args, *PROTOS]) != 0:
        sys.exit("protoc failed")
    from argosy_api.crd import crd_yaml

    (target / CRD).parent.mkdir(parents=True, exist_ok=True)
    (target / CRD).write_text(crd_yaml())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        generated(ROOT)
        return
    with tempfile.TemporaryDirectory() as folder:
        generated(Path(folder))
        fresh = [p for p in Path(folder).rglob("*") if p.is_file()]
        stale = [
            str(p.relative_to(folder))
            for p in fresh
            if not (ROOT / p.relative_to(folder)).exists()
            or (ROOT / p.relative_to(folder)).read_bytes() != p.read_bytes()
        ]
    if stale:
        sys.exit("out of date; run `make generate`: " + ", ".join(sorted(stale)))
    print(f"{len(fresh)} generated files are up to date")


if __name__ == "__main__":
    main()

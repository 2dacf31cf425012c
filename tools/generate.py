"""Regenerate what is generated: protobuf modules, the chart's CRD, dashboards and values, the resource's fields.

python tools/generate.py            write
python tools/generate.py --check    compare; exit code 1 and the names when something is out of date
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import chart_values
import dashboards
from grpc_tools import protoc

from argosy_api.rules import RULES

ROOT = Path(__file__).resolve().parent.parent
PROTOS = [
    "argosy_api/v1/worker.proto",
    "argosy_api/inference/inference.proto",
    "argosy_api/externalscaler/externalscaler.proto",
    "argosy_api/extproc/extproc.proto",
]
CRD = Path("charts/argosy/files/crds/inferencedeployments.yaml")
FIELDS = Path("docs/resource.md")
CHART = Path("charts/argosy")


def generated(target: Path) -> None:
    """Write all generated files under `target`, laid out as in the repository."""
    out = target / "api"
    out.mkdir(parents=True, exist_ok=True)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where the mypy plugin lives
    args = ["protoc", f"-I{ROOT / 'api'}", f"-I{files('grpc_tools') / '_proto'}"]
    args += [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    if protoc.main([*args, *PROTOS]) != 0:
        sys.exit("protoc failed")
    from argosy_api.crd import crd, crd_yaml

    (target / CRD).parent.mkdir(parents=True, exist_ok=True)
    (target / CRD).write_text(crd_yaml())
    (target / FIELDS).parent.mkdir(parents=True, exist_ok=True)
    (target / FIELDS).write_text(fields_page(crd()))
    values, schema = ((ROOT / CHART / name).read_text() for name in ("values.yaml", "values.schema.json"))
    (target / CHART / "files/dashboards").mkdir(parents=True, exist_ok=True)
    for name, text in dashboards.dashboards().items():
        (target / CHART / "files/dashboards" / name).write_text(text)
    (target / CHART / "README.md").write_text(chart_values.page(values, json.loads(schema)))


def fields_page(crd: dict[str, Any]) -> str:
    """A Markdown table of all fields below spec: path, type, default, meaning."""
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    lines = [
        "# The fields of an InferenceDeployment",
        "",
        "Generated from `api/argosy_api/resource.py` by `make generate`. `kubectl explain infd.spec` tells the same.",
        "A field that is not in this table is refused, never ignored.",
        "",
        "| field | type | default | meaning |",
        "|---|---|---|---|",
        *_rows(spec, ""),
        "",
        "## Rules over several fields",
        "",
        *(f"- `{f'{r.at}.{r.field}'.lstrip('.')}` {r.message}." for r in RULES),
    ]
    return "\n".join(lines) + "\n"


def _rows(node: dict[str, Any], path: str) -> Iterator[str]:
    for name, child in node.get("properties", {}).items():
        at = f"{path}.{name}".lstrip(".")
        kind = "quantity" if child.get("x-kubernetes-int-or-string") else child["type"]
        if "enum" in child:
            kind = " \\| ".join(map(str, child["enum"]))
        needed = "required" if name in node.get("required", ()) else ""
        default = (
            needed if "default" not in child or child.get("type") == "object" else f"`{json.dumps(child['default'])}`"
        )
        yield f"| `{at}` | {kind} | {default} | {child.get('description', '').replace('|', '/')} |"
        yield from _rows(child, at)
        yield from _rows(child.get("items", {}), f"{at}[]")


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

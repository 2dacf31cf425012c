"""How a model's makers advise to pick its tokens: what the file or the folder says, else the catalog."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from argosy_api.errors import InvalidArgumentError
from argosy_api.params import SamplingParams
from argosy_cli.source.catalog import CATALOG

_KEYS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_MAX_BYTES = 1 << 20


UNKNOWN = {"temperature": 0.7}
"""For a model that nobody has any advice for: always the likeliest token makes small models repeat themselves."""


def advised(uri: str, path: Path | None) -> SamplingParams:
    """Sampling parameters for a conversation that nobody set any for.

    Args:
        uri: of the model; empty: not known.
        path: the model's file or folder on this machine; None: not known.

    """
    found = of_folder(path) if path is not None and path.is_dir() else {}
    listed = next((entry.sampling for entry in CATALOG.values() if entry.uri == uri), {})
    return with_advice(SamplingParams(), found or listed or UNKNOWN)


def of_folder(folder: Path) -> dict[str, Any]:
    """What `generation_config.json` says of sampling; nothing where there is no sound one."""
    try:
        with (folder / "generation_config.json").open("rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(document, dict):
        return {}
    if document.get("do_sample") is False:
        return {"temperature": 0.0}
    return {key: document[key] for key in _KEYS if isinstance(document.get(key), int | float)}


def with_advice(sampling: SamplingParams, advice: dict[str, Any]) -> SamplingParams:
    """The same with each piece of advice that is possible here; another one is passed over: nobody asked for it."""
    for key, value in advice.items():
        try:
            one: dict[str, Any] = {key: int(value) if key == "top_k" else float(value)}
            told = replace(sampling, **one)
            told.check()
        except (InvalidArgumentError, ValueError, OverflowError):
            continue
        sampling = told
    return sampling

"""How a model's makers advise to pick its tokens: what the file or the folder says, else the catalog."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from argosy_api.errors import InvalidArgumentError, ModelError
from argosy_api.params import SamplingParams
from argosy_cli.source.catalog import CATALOG

_KEYS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
_GGUF = dict(zip(_KEYS, ("temp", "top_p", "top_k", "min_p", "penalty_repeat"), strict=True))
"""Ours to those of a GGUF file, below `general.sampling.`"""
_MAX_BYTES = 1 << 20


UNKNOWN = {"temperature": 0.7}
"""For a model that nobody has any advice for: always the likeliest token makes small models repeat themselves."""


def advised(uri: str, path: Path | None) -> SamplingParams:
    """Sampling parameters for a conversation that nobody set any for.

    Args:
        uri: of the model; empty: not known.
        path: the model's file or folder on this machine; None: not known.

    """
    listed = next((entry.sampling for entry in CATALOG.values() if entry.uri == uri), {})
    if path is None:
        found = listed
    elif path.is_dir():
        found = of_folder(path) or listed
    else:  # a file of the catalog has no advice, or we had no need to list it
        found = listed or of_file(path)
    return with_advice(SamplingParams(), found or UNKNOWN)


def of_file(file: Path) -> dict[str, Any]:
    """What a GGUF file says of sampling; nothing where it says nothing, or is none."""
    from argosy_worker.models.gguf import GgufFile  # noqa: PLC0415 - numpy takes a while to load

    try:
        with GgufFile(file) as found:
            told = {ours: found.metadata.get(f"general.sampling.{theirs}") for ours, theirs in _GGUF.items()}
    except ModelError:
        return {}
    return {key: value for key, value in told.items() if isinstance(value, int | float)}


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

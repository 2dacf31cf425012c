"""adapter_config.json, as the peft library writes it: what an adapter is, and what of it is not supported.

Every field is read, or known to change nothing of what is computed, or refused by its name when it is set.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from argosy_api import limits
from argosy_api.errors import ModelInvalidError, ModelNotFoundError, ModelUnsupportedError

NAME = "adapter_config.json"
_READ = {
    "peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "rank_pattern", "alpha_pattern", "bias",
    "fan_in_fan_out", "init_lora_weights",
}  # fmt: skip
_NOTHING = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ephemeral_gpu_offload", "eva_config", "exclude_modules",
    "inference_mode", "layers_pattern", "layers_to_transform", "loftq_config", "lora_dropout",
    "lora_ga_config", "megatron_config", "megatron_core", "peft_version", "qalora_group_size", "revision",
    "runtime_config", "task_type",
}  # fmt: skip
"""About training, or about which modules have tensors in the file, which says it itself."""
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""How `init_lora_weights` begins where training went on beside other weights than those of the model: the sum would be
wrong (`findings/peft-changed-base.sh`).
"""
_MOST_PATTERN = 256
_MOST_REPEATS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class PeftConfig:
    """An adapter's configuration, checked."""

    rank: int
    alpha: float
    root_scaled: bool
    """rsLoRA: the scale is alpha / sqrt(rank)."""
    targets: tuple[str, ...] | re.Pattern[str] | None
    """Ends of module names, or a pattern of all of one; None: all linears."""
    ranks: tuple[tuple[re.Pattern[str], int], ...] = ()
    """Of modules whose name ends so; the first one that fits counts."""
    alphas: tuple[tuple[re.Pattern[str], float], ...] = ()

    def rank_of(self, module: str) -> int:
        """Of a module."""
        return next((rank for pattern, rank in self.ranks if pattern.fullmatch(module)), self.rank)

    def scale_of(self, module: str) -> float:
        """What up (down x) is multiplied with."""
        alpha = next((alpha for pattern, alpha in self.alphas if pattern.fullmatch(module)), self.alpha)
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.root_scaled else rank)

    def check_modules(self, modules: Sequence[str]) -> None:
        """Hold the modules of the file against `target_modules`. Raises ModelInvalidError."""
        targets = self.targets
        if targets is None:
            return
        if isinstance(targets, re.Pattern):
            other = next((m for m in modules if not targets.fullmatch(m)), None)
        else:
            other = next((m for m in modules if not any(_ends(m, target) for target in targets)), None)
            lacking = next((t for t in targets if not any(_ends(m, t) for m in modules)), None)
            if lacking is not None:
                raise ModelInvalidError(
                    f"{NAME}: target_modules has {lacking[:80]!r}, of which the file has no tensors"
                )
        if other is not None:
            raise ModelInvalidError(f"the file has tensors of {other!r}, which target_modules of {NAME} does not name")


def read_config(folder: Path) -> PeftConfig:
    """Read an adapter's configuration.

    Raises:
        ModelNotFoundError: there is none.
        ModelInvalidError, ModelUnsupportedError: naming the field.

    """
    path = folder / NAME
    try:
        with path.open("rb") as file:
            raw = file.read(limits.MAX_ADAPTER_CONFIG + 1)
    except OSError as error:
        raise ModelNotFoundError(f"no {NAME} at the adapter's source ({error.strerror})") from None
    if len(raw) > limits.MAX_ADAPTER_CONFIG:
        raise ModelInvalidError(f"{NAME} has more than {limits.MAX_ADAPTER_CONFIG} bytes")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ModelInvalidError(f"{NAME} is no JSON") from error
    if not isinstance(document, dict):
        raise ModelInvalidError(f"{NAME} is no JSON object")
    return parse_config(document)


def parse_config(document: Mapping[str, Any]) -> PeftConfig:
    """Check what `adapter_config.json` holds. Raises like `read_config`."""
    if document.get("peft_type") != "LORA":
        raise ModelUnsupportedError(f"{NAME}: peft_type is {_shown(document.get('peft_type'))}; supported is LORA")
    if document.get("bias", "none") != "none":
        raise ModelUnsupportedError(f"{NAME}: bias is {_shown(document['bias'])}; supported is none")
    if document.get("fan_in_fan_out"):
        raise ModelUnsupportedError(f"{NAME}: fan_in_fan_out is not supported")
    begun = document.get("init_lora_weights")
    if isinstance(begun, str) and begun.lower().startswith(_CHANGE_THE_BASE):
        raise ModelUnsupportedError(
            f"{NAME}: init_lora_weights is {_shown(begun)}, which changes the model's own weights, and those are not "
            "in the file; save it with peft's path_initial_model_for_weight_conversion, or merge it with peft"
        )
    for field, value in document.items():  # use_dora, modules_to_save, trainable_token_indices and what comes one day
        if field not in _READ and field not in _NOTHING and value:
            raise ModelUnsupportedError(f"{NAME}: {field[:60]} is not supported")
    return PeftConfig(
        rank=_rank("r", document.get("r", 8)),
        alpha=_alpha("lora_alpha", document.get("lora_alpha", 8)),
        root_scaled=bool(document.get("use_rslora", False)),
        targets=_targets(document.get("target_modules")),
        ranks=tuple((_end(key), _rank("rank_pattern", value)) for key, value in _table(document, "rank_pattern")),
        alphas=tuple((_end(key), _alpha("alpha_pattern", value)) for key, value in _table(document, "alpha_pattern")),
    )


def _targets(value: Any) -> tuple[str, ...] | re.Pattern[str] | None:
    if isinstance(value, str):
        return None if value == "all-linear" else _pattern("target_modules", value)
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return tuple(value)
    raise ModelInvalidError(f"{NAME}: target_modules must be a text or a list of texts")


def _table(document: Mapping[str, Any], field: str) -> list[tuple[str, Any]]:
    value = document.get(field) or {}
    if not isinstance(value, dict):
        raise ModelInvalidError(f"{NAME}: {field} must be an object")
    return list(value.items())


def _end(key: str) -> re.Pattern[str]:
    """A key of rank_pattern or alpha_pattern: of names that end with it, after a dot; with ^ of whole ones."""
    _pattern("rank_pattern and alpha_pattern", key)
    return re.compile(rf"{key}" if key.startswith("^") else rf"(?:.*\.)?(?:{key})")


def _pattern(field: str, text: str) -> re.Pattern[str]:
    """A regular expression from a stranger: only such as cannot take long over a module's name."""
    repeats = len(re.findall(r"(?<!\\)[*+{]", text))
    if len(text) > _MOST_PATTERN or repeats > _MOST_REPEATS or re.search(r"\)[*+?{]|\\[1-9]|\(\?", text):
        raise ModelUnsupportedError(
            f"{NAME}: {field} has a pattern that is not supported: longer than {_MOST_PATTERN} characters, with more "
            f"than {_MOST_REPEATS} repetitions, with a repeated group, a look-around or a back-reference"
        )
    try:
        return re.compile(text)
    except re.error as error:
        raise ModelInvalidError(f"{NAME}: {field} has {text[:80]!r}, which is no regular expression") from error


def _rank(field: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= limits.MAX_ADAPTER_RANK:
        raise ModelInvalidError(f"{NAME}: {field} is {_shown(value)}; must be 1 to {limits.MAX_ADAPTER_RANK}")
    return value


def _alpha(field: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e6:
        raise ModelInvalidError(f"{NAME}: {field} is {_shown(value)}; must be a number")
    return float(value)


def _ends(module: str, target: str) -> bool:
    return module == target or module.endswith(f".{target}")


def _shown(value: Any) -> str:
    return repr(value)[:60]

"""What a worker says of itself on `/state`, from the very start of its process: one writer, one parser."""

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

_MAX_WORD = 64
_MAX_TEXT = 4096


class Phase(StrEnum):
    """Life of a worker, in this order (but for FAILED, which ends it anywhere)."""

    STARTING = "Starting"
    DOWNLOADING = "Downloading"
    LOADING = "Loading"
    READY = "Ready"
    DRAINING = "Draining"
    FAILED = "Failed"


class ServedModel(BaseModel):
    """What the worker serves, once it does. Readers ignore what they do not know: workers may be newer than they."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, defer_build=True)

    architecture: Annotated[str, Field(max_length=_MAX_TEXT)] = ""
    quantization: Annotated[str, Field(max_length=_MAX_TEXT)] = ""
    compute: Annotated[str, Field(max_length=_MAX_TEXT)] = ""
    device: Annotated[str, Field(max_length=_MAX_TEXT)] = ""
    max_model_len: int = 0
    """Longest prompt and answer together, in tokens."""
    kv_blocks_per_replica: int = 0
    weights_bytes: int = 0
    """0: nothing was counted, as of a simulated model."""
    kv_bytes_per_token: int = 0
    kv_cache_bytes: int = 0
    fingerprint: Annotated[str, Field(max_length=_MAX_TEXT)] = ""
    """Hex; replicas that differ in it have different block ids."""
    instruction_set: Annotated[str, Field(max_length=_MAX_TEXT)] = ""
    """What the kernels use; replicas that differ in it may answer differently."""
    exactness: Annotated[str, Field(max_length=_MAX_TEXT)] = ""
    """`exact`, or why answers may depend on a request's company on this processor."""


AdapterPhase = Literal["Loading", "Ready", "Failed"]


class AdapterState(BaseModel):
    """What became of one adapter of the list."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, defer_build=True)

    name: Annotated[str, Field(max_length=_MAX_TEXT)]
    uri: Annotated[str, Field(max_length=_MAX_TEXT)]
    phase: AdapterPhase = "Loading"
    reason: Annotated[str, Field(max_length=_MAX_WORD)] = ""
    """CamelCase, of Failed."""
    message: Annotated[str, Field(max_length=_MAX_TEXT)] = ""
    digest: Annotated[str, Field(max_length=_MAX_WORD)] = ""
    """Hex, of what it adds; of Ready."""
    nbytes: int = 0
    """Memory that it takes while it is used."""


_ADAPTERS = TypeAdapter(list[AdapterState], config=ConfigDict(defer_build=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """The state at one moment."""

    phase: Phase = Phase.STARTING
    reason: str = ""
    """CamelCase, when the phase needs one: "ModelInvalid"."""
    message: str = ""
    progress: float = 0.0
    """0 to 1 within the phase."""
    model: ServedModel | None = None
    adapters: tuple[AdapterState, ...] = ()
    """In the order of the list that the worker has seen last."""

    def to_json(self) -> str:
        """The body of `/state`."""
        document: dict[str, Any] = {
            "phase": self.phase,
            "reason": self.reason,
            "message": self.message,
            "progress": self.progress,
        }
        if self.model is not None:
            document["model"] = self.model.model_dump(by_alias=True)
        if self.adapters:
            document["adapters"] = [adapter.model_dump(by_alias=True) for adapter in self.adapters]
        return json.dumps(document)

    @classmethod
    def parse(cls, body: str | bytes) -> "WorkerStatus | None":
        """Read a body; None for anything that is none. Texts are cut to bounds, a number out of range is 0."""
        try:
            document = json.loads(body)
            phase = Phase(document["phase"])
            told, listed = document.get("model"), document.get("adapters") or []
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        progress = document.get("progress", 0.0)
        known = isinstance(progress, int | float) and 0 <= progress <= 1
        try:
            model = None if told is None else ServedModel.model_validate(told)
            adapters = _ADAPTERS.validate_python(listed)
        except ValidationError:
            model, adapters = None, []
        return cls(
            phase=phase,
            reason=str(document.get("reason") or "")[:_MAX_WORD],
            message=str(document.get("message") or "")[:_MAX_TEXT],
            progress=float(progress) if known else 0.0,
            model=model,
            adapters=tuple(adapters),
        )

"""What a worker process serves and how: one JSON document on its command line, `--spec={...}`.

It has the resource's own types and names, so a new field of `spec.engine` reaches the worker without another line.
What equals its default is not sent: a worker of another version runs as long as nothing is asked that it does not know.
What it does not know it refuses with the field's name, as the API server would; nothing is ignored. (So a changed
default is a changed API, as everywhere in Kubernetes.)
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from argosy_api import quantity, rules
from argosy_api.checking import first_problem
from argosy_api.errors import InvalidArgumentError
from argosy_api.spec.change import DrainSpec
from argosy_api.spec.engine import EngineSpec, QuantizationSpec
from argosy_api.spec.model import ModelSpec
from argosy_api.spec.parallel import ParallelismSpec
from argosy_api.spec.strict import Strict

if TYPE_CHECKING:
    from argosy_api.resource import InferenceDeployment

OPTION = "--spec"

Role = Literal["", "prefill", "decode"]


class WorkerSpec(Strict):
    """What the resource says about each worker's process."""

    model: ModelSpec
    """Which model, and under which name (the resource's own name, where it gives no other)."""
    engine: EngineSpec = EngineSpec()
    """How the engine runs."""
    quantization: QuantizationSpec = QuantizationSpec()
    """In what numbers weights and KV cache are held."""
    parallelism: ParallelismSpec = ParallelismSpec()
    """How many processes share the model."""
    drain: DrainSpec = DrainSpec()
    """Time for running requests after SIGTERM."""
    revision: str = ""
    """Of the resource, as the plan named it; told to routers."""
    role: Role = ""
    """What the worker is for, with disaggregation; told to routers, who decide what comes here."""

    @classmethod
    def of(cls, deployment: "InferenceDeployment", revision: str, role: Role = "") -> "WorkerSpec":
        """What the workers of a resource are told."""
        spec = deployment.spec
        # where the token lies concerns the pod, not the process
        model = spec.model.model_copy(update={"served_name": deployment.served_name, "token_secret_ref": None})
        return cls(
            model=model,
            engine=spec.engine,
            quantization=spec.quantization,
            parallelism=spec.parallelism,
            drain=spec.drain,
            revision=revision,
            role=role,
        )

    def argument(self) -> str:
        """The command line's one argument."""
        return f"{OPTION}={self.model_dump_json(by_alias=True, exclude_defaults=True)}"

    @classmethod
    def parse(cls, text: str) -> "WorkerSpec":
        """Read the JSON document.

        Raises:
            InvalidArgumentError: with the path of the first wrong field and what would be right.

        """
        try:
            spec = cls.model_validate_json(text)
        except ValidationError as error:
            raise first_problem(error, cls, "worker's spec") from None
        if spec.model.served_name is None:
            raise InvalidArgumentError("model.servedName", "is needed: the name that clients ask for")
        quantity.check(
            {
                "engine.kvCacheMemory": spec.engine.kv_cache_memory,
                "engine.kvCacheHostMemory": spec.engine.kv_cache_host_memory,
                "engine.adapterMemory": spec.engine.adapter_memory,
            }
        )
        document = spec.model_dump(by_alias=True, exclude_none=True)
        for part in ("model", "engine", "quantization"):
            rules.check_part(f"spec.{part}", document[part], as_path=part)
        return spec


def with_threads(argv: Sequence[str], threads: int) -> tuple[str, ...]:
    """A worker's command line, with so many threads where its spec leaves the number to the worker."""
    return tuple(_with_threads(part, threads) if part.startswith(f"{OPTION}=") else part for part in argv)


def _with_threads(argument: str, threads: int) -> str:
    spec = WorkerSpec.parse(argument.removeprefix(f"{OPTION}="))
    if spec.engine.threads is not None:
        return argument
    return spec.model_copy(update={"engine": spec.engine.model_copy(update={"threads": threads})}).argument()

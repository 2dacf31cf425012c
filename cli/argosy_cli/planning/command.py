"""`argosy plan`: from resources to memory plans."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from argosy_api import quantity
from argosy_api.errors import ModelError
from argosy_api.gpus import GPUS
from argosy_api.memory import Budget, Needs
from argosy_api.model_uri import ModelUri
from argosy_api.pipeline import Place
from argosy_api.resource import InferenceDeployment
from argosy_cli.embedded import resources
from argosy_cli.errors import CommandError, ResourceError
from argosy_cli.planning import show
from argosy_cli.planning.nearest import USEFUL_CONTEXT, Choice, gpus_needed, nearest

try:
    from argosy_cli.planning.headers import header_of
    from argosy_worker.compute.quant.precision import OWN, own_kv, resolve
    from argosy_worker.models.sizing import Header, needs
except ModuleNotFoundError as error:
    problem = f"this needs the worker's packages ({error.name} is missing): pip install 'argosy[worker]'"
    raise CommandError(problem) from None


class DoesNotFitError(CommandError):
    """A resource takes more memory than there is; its plan was printed."""

    exit_code = 6


def plan(
    files: Sequence[Path], console: Console, *, gpu: str | None, memory: str | None, context: int | None, as_json: bool
) -> None:
    """Print a plan for each resource.

    Raises:
        ResourceError: a file or an option is wrong.
        CommandError: a model's header cannot be read.
        DoesNotFitError: at least one does not fit.

    """
    planned = [planned_of(item.resource, gpu=gpu, memory=memory, context=context) for item in resources.load(files)]
    if as_json:
        print(json.dumps([show.document(item) for item in planned], indent=1))
    else:
        for item in planned:
            show.show(console, item)
    failed = [item.name for item in planned if not item.plan.fits]
    if failed:
        raise DoesNotFitError(f"{len(failed)} of {len(planned)} resources do not fit: {', '.join(failed)}")


def planned_of(
    resource: InferenceDeployment, *, gpu: str | None = None, memory: str | None = None, context: int | None = None
) -> show.Planned:
    """The plan of one resource.

    Raises:
        ResourceError: an option is wrong, or the kind of GPU is not known.
        CommandError: a header cannot be read, or the device cannot compute what is asked for.

    """
    spec = resource.spec
    ranks = spec.parallelism.ranks
    budget, place = _budget(resource, gpu, memory)
    try:
        headers = [header_of(uri) for uri in resource.model_uris]

        def needs_of(weights: str, kv_cache: str) -> Needs:
            return _needs(resource, headers, budget.device, weights, kv_cache)

        choice = Choice(
            weights=spec.quantization.weights,
            kv_cache=spec.quantization.kv_cache,
            block_size=spec.engine.block_size,
            asked=spec.engine.kv_cache_bytes,
            wanted=spec.model.max_model_len,
            host=spec.engine.kv_cache_host_bytes,
            ranks=ranks,
        )
        taken = needs_of(choice.weights, choice.kv_cache)
        found = choice.plan(taken, budget)
        group = spec.quantization.group_size
        held = resolve(choice.weights, group, spec.engine.compute, budget.device, integers=True, native=True)
        better = [] if found.fits else nearest(choice, needs_of, budget)
    except ModelError as error:
        raise CommandError(f"{resource.metadata.name}: {error.message}") from None
    floats, kv = held.compute if budget.device == "cuda" else "fp32", own_kv(choice.kv_cache, held)
    names = {"none": floats, OWN: "native"}
    longest = found.cache.longest if found.cache is not None else taken.context
    return show.Planned(
        name=resource.metadata.name,
        model=str(ModelUri.parse(spec.model.uri)),
        workers=spec.workers,
        ranks=ranks,
        pods=spec.arrangement.pods,
        place=place,
        weights=f"{names.get(held.weights, held.weights)} (stored as {headers[0].formats})",
        kv_cache=floats if kv == "auto" else kv,
        context=context or min(choice.wanted or USEFUL_CONTEXT, longest),
        plan=found,
        nearest=better,
        gpus=_gpus(choice, taken, budget, fits=found.fits),
    )


def _gpus(choice: Choice, taken: Needs, budget: Budget, *, fits: bool) -> int:
    """As `show.Planned` has them."""
    if budget.device != "cuda":
        return 0
    return choice.ranks * fits if choice.ranks > 1 else gpus_needed(choice, taken, budget)


def _needs(resource: InferenceDeployment, headers: Sequence[Header], device: str, weights: str, kv_cache: str) -> Needs:
    spec = resource.spec
    quantization = spec.quantization.model_copy(update={"weights": weights, "kv_cache": kv_cache})
    of_all = [
        needs(
            header,
            quantization,
            spec.engine,
            device=device,
            max_model_len=spec.model.max_model_len,
            group=Place(0, spec.parallelism.pipeline, spec.parallelism.tensor),
        )
        for header in headers
    ]
    for draft in of_all[1:]:
        of_all[0] = of_all[0].with_draft(draft)
    return replace(of_all[0], adapters=spec.engine.adapter_bytes)


def _budget(resource: InferenceDeployment, gpu: str | None, memory: str | None) -> tuple[Budget, str]:
    """The memory of one process, and what it is called."""
    spec = resource.spec
    if gpu is not None and gpu not in GPUS:
        raise ResourceError(f"--gpu {gpu}: is not known; known are {', '.join(GPUS)}; or give --memory")
    on_gpu = gpu is not None or spec.resources.gpu is not None or spec.engine.device == "cuda"
    if on_gpu and spec.engine.device == "cpu":
        raise ResourceError("spec.engine.device: is cpu, so that no GPU is used")
    device = "cuda" if on_gpu else "cpu"
    if memory is not None:
        try:
            return Budget(total=quantity.parse_bytes(memory), device=device), gpu or "--memory"
        except ValueError as error:
            raise ResourceError(f"--memory: {error}") from None
    if gpu is not None:
        return Budget(total=GPUS[gpu].usable, device=device), gpu
    if on_gpu:
        raise ResourceError(
            f"{resource.metadata.name}: runs on a GPU; say which: --gpu {', '.join(GPUS)}; or its --memory"
        )
    return Budget(total=quantity.parse_bytes(spec.resources.memory), device=device), "spec.resources.memory"

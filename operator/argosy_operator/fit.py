"""Whether a resource can fit in the memory of its workers, before anything is created or changed for it. Pure.

Only what is impossible is refused: from the resource alone, and from what its workers have said of the same model. No
header is fetched here: the operator opens no connection to hosts that resources name. `argosy plan` reads headers.
"""

from argosy_api import quantity
from argosy_api.errors import ModelDoesNotFitError
from argosy_api.memory import MIB, automatic_cache, size, size_cache
from argosy_api.model_uri import ModelUri
from argosy_api.resource import InferenceDeploymentSpec
from argosy_api.status import MemoryStatus

LEAST_PROCESS = 128 * MIB
"""A worker takes more than this beside its model, whatever its libraries are."""


def counted_for(spec: InferenceDeploymentSpec) -> str:
    """What decides how large weights and tokens are, in words: what a MemoryStatus is `of`."""
    numbers, draft = spec.quantization, spec.engine.speculative.model
    held = f"weights {numbers.weights}, group {numbers.group_size or 0}, kvCache {numbers.kv_cache}"
    parts = {"pipeline": spec.parallelism.pipeline, "tensor": spec.parallelism.tensor}
    shared = "".join(f", {name} {count}" for name, count in parts.items() if count > 1)
    return f"{spec.model.uri}; {held}, compute {spec.engine.compute}, draft {draft or 'none'}{shared}"


def refusal(spec: InferenceDeploymentSpec, known: MemoryStatus | None) -> str:
    """Why the workers cannot fit, with the numbers and the nearest that would; empty where they may."""
    if spec.resources.gpu is not None or spec.engine.device == "cuda" or ModelUri.parse(spec.model.uri).scheme == "sim":
        return ""
    total, asked, host = (
        quantity.parse_bytes(spec.resources.memory),
        spec.engine.kv_cache_bytes,
        spec.engine.kv_cache_host_bytes,
    )
    weights = known.weights_bytes if known is not None and known.of == counted_for(spec) else 0
    adapters = spec.engine.adapter_bytes
    left = total - LEAST_PROCESS - weights - adapters
    parts = f"of spec.resources.memory ({size(total)}) at least {size(LEAST_PROCESS)} are for the process"
    parts += f" and {size(weights)} for the weights" if weights else ""
    parts += f" and {size(adapters)} for adapters" if adapters else ""
    wanted = (asked or 0) + host
    if wanted > max(0, left) or left < 0:
        caches = f", and the resource asks for {size(wanted)} of KV cache" if wanted else ""
        return f"The model does not fit: {parts}{caches}. {_nearest(total - left + wanted, asked, left - host)}"
    if not weights or known is None:
        return ""
    block = spec.engine.block_size
    try:
        size_cache(
            per_block=known.kv_bytes_per_token * block,
            block_size=block,
            automatic=automatic_cache(left, device="cpu", limited=True, one_sequence=0),
            asked=asked,
            left=left,
            host=host,
            context=1 << 30,
            wanted=spec.model.max_model_len,
        )
    except ModelDoesNotFitError as error:
        need = (spec.model.max_model_len or block) * known.kv_bytes_per_token
        longest = (left - host) // 2 // known.kv_bytes_per_token
        advice = f"spec.model.maxModelLen up to {longest}; or " if longest >= block else ""
        more = -(-(LEAST_PROCESS + weights + host + 2 * need) // MIB)
        return (
            f"The model does not fit: {parts}; {error.message}. It would with {advice}spec.resources.memory {more}Mi."
        )
    return ""


def _nearest(need: int, asked: int | None, room: int) -> str:
    smaller = f"spec.engine.kvCacheMemory up to {room // MIB}Mi; or " if asked and room >= MIB else ""
    return f"It would with {smaller}spec.resources.memory above {-(-need // MIB)}Mi; `argosy plan` counts exactly."

"""What embedded mode can honour of a resource: everything else is named, or refused. Nothing is silently ignored."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from argosy_api.model_uri import ModelUri
from argosy_api.process import HF_TOKEN, IMAGE_ROOT, PVC_ROOT
from argosy_api.resource import InferenceDeployment
from argosy_cli.embedded.machine import Machine
from argosy_cli.embedded.resources import Loaded
from argosy_cli.errors import ResourceError

_NO_CLAIMS = (
    "pvc:// needs a cluster's PersistentVolumeClaims; use file:///path here, "
    f"or set {PVC_ROOT} to a folder that holds each claim as a folder"
)
_NO_IMAGES = (
    "oci:// needs a cluster that mounts images; copy the model out of the image and use file:///path here, "
    f"or set {IMAGE_ROOT} to a folder that holds it as "
)


def review(loaded: Sequence[Loaded], machine: Machine, environment: Mapping[str, str]) -> list[str]:
    """One line for each field that has no effect on a single machine.

    Raises:
        ResourceError: for what a worker cannot do without (a GPU, a claim, a token).

    """
    lines, wrong = [], []
    for item in loaded:
        refused = _refusals(item.resource, machine, environment)
        wrong += [f"{item.at(path)}: {path}: {problem}" for path, problem in refused]
        lines += [f"{item.resource.metadata.name}: {path} {effect}" for path, effect in _notices(item.resource)]
    if wrong:
        raise ResourceError(wrong[0] if len(wrong) == 1 else "\n  ".join((f"{len(wrong)} faults:", *wrong)))
    _refuse_too_many_gpus(loaded, machine)
    if machine.gpus and not any(_gpus(i.resource) for i in loaded) and any(_could_use_gpu(i.resource) for i in loaded):
        lines.append("this machine has a GPU that no resource asks for; spec.resources.gpu gives each worker its own")
    return lines


def _refusals(resource: InferenceDeployment, machine: Machine, environment: Mapping[str, str]) -> list[tuple[str, str]]:
    spec, found = resource.spec, []
    for path, uri in zip(("spec.model.uri", "spec.engine.speculative.model"), resource.model_uris, strict=False):
        if uri.scheme == "pvc":
            root = environment.get(PVC_ROOT)
            if not root:
                found.append((path, _NO_CLAIMS))
            elif not (Path(root) / uri.place).is_dir():
                found.append((path, f"the claim {uri.place!r} is no folder in {PVC_ROOT}={root}"))
        if uri.scheme == "oci":
            root = environment.get(IMAGE_ROOT)
            if not root or not (Path(root) / uri.folder).is_dir():
                found.append((path, _NO_IMAGES + uri.folder))
    if spec.model.token_secret_ref is not None and not environment.get(HF_TOKEN):
        found.append(
            ("spec.model.tokenSecretRef", f"there are no Secrets outside a cluster; set {HF_TOKEN} to the token")
        )
    for name in ("pipeline", "tensor"):
        if getattr(spec.parallelism, name) > 1 and spec.arrangement.pods > 1:
            problem = "groups of pods need a cluster; here a worker is one pod: set 1"
            if machine.gpus > 1:
                problem += ", or resources.gpu.count to tensor times pipeline"
            found.append((f"spec.parallelism.{name}", problem))
    if spec.resources.gpu is not None and not machine.gpus:
        found.append(("spec.resources.gpu", "this machine has no CUDA device; remove it to run on the CPU"))
    if spec.engine.device == "cuda" and not machine.gpus:
        found.append(("spec.engine.device", "is cuda, but this machine has no CUDA device; use auto or cpu"))
    return found


def _notices(resource: InferenceDeployment) -> list[tuple[str, str]]:
    spec, found = resource.spec, []
    if spec.model.token_secret_ref is not None:
        found.append(("spec.model.tokenSecretRef", f"is taken from the environment variable {HF_TOKEN}"))
    if spec.model_cache is not None and spec.model_cache.type == "pvc":
        found.append(("spec.modelCache", "is a folder that the workers of this machine share, not a claim"))
    elif spec.model_cache is not None and spec.model_cache.size is not None:
        found.append(("spec.modelCache.size", "is not enforced on a single machine"))
    if spec.image is not None:
        found.append(("spec.image", "has no effect: workers are local processes of this installation"))
    for path, part in (("spec.placement", spec.placement), ("spec.disruption", spec.disruption)):
        if part.model_fields_set:
            found.append((path, "has no effect on a single machine"))
    if spec.rollout.model_fields_set:
        found.append(("spec.rollout", "has no effect: changes take effect when `argosy up` is started again"))
    if "cpu" in spec.resources.model_fields_set:
        found.append(("spec.resources.cpu", "is not enforced: workers share this machine's cores"))
    if "memory" in spec.resources.model_fields_set:
        found.append(("spec.resources.memory", "is not enforced on a single machine"))
    if spec.resources.gpu is not None and "resource_name" in spec.resources.gpu.model_fields_set:
        found.append(("spec.resources.gpu.resourceName", "has no effect: any CUDA device of this machine is taken"))
    return found


def _refuse_too_many_gpus(loaded: Sequence[Loaded], machine: Machine) -> None:
    wanted = sum(_gpus(item.resource) for item in loaded)
    if wanted > machine.gpus:
        origin = next(item.origin for item in reversed(loaded) if _gpus(item.resource))
        raise ResourceError(
            f"{origin}: spec.replicas: all workers together ask for {wanted} GPUs, this machine has {machine.gpus}"
        )


def _gpus(resource: InferenceDeployment) -> int:
    return resource.spec.most_workers * resource.spec.resources.gpu.count if resource.spec.resources.gpu else 0


def _could_use_gpu(resource: InferenceDeployment) -> bool:
    return resource.spec.engine.device == "auto" and ModelUri.parse(resource.spec.model.uri).scheme != "sim"

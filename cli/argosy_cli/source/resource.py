"""The resource that a command without YAML stands for: written as somebody would write it, and read as any other."""

from dataclasses import dataclass
from typing import Any

import yaml

from argosy_api.resource import API_VERSION, KIND


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What options say of the resource; None leaves the field out."""

    name: str
    uri: str
    replicas: int | None = None
    max_model_len: int | None = None
    weights: str | None = None
    threads: int | None = None
    gpu: bool = False


def document(wish: Wish) -> dict[str, Any]:
    """The resource, with no field that holds its default."""
    model: dict[str, Any] = {"uri": wish.uri}
    if wish.max_model_len is not None:
        model["maxModelLen"] = wish.max_model_len
    spec: dict[str, Any] = {"model": model}
    if wish.replicas is not None and wish.replicas != 1:
        spec["replicas"] = wish.replicas
    if wish.threads is not None:
        spec["engine"] = {"threads": wish.threads}
    if wish.weights is not None:
        spec["quantization"] = {"weights": wish.weights}
    if wish.gpu:
        spec["resources"] = {"gpu": {"count": 1}}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": wish.name}, "spec": spec}


def text(wishes: list[Wish]) -> str:
    """A file of these resources."""
    return yaml.safe_dump_all([document(wish) for wish in wishes], sort_keys=False, width=1000)

"""For each field of `spec.engine` another value than its default, so that a new field needs no line in a test."""

from typing import Literal, get_args, get_origin

from argosy_api.resource import EngineSpec


def another(field):
    """A value that the field may have and that is not its default."""
    kinds = [field.annotation, *get_args(field.annotation)]
    literal = next((k for k in kinds if get_origin(k) is Literal), None)
    if literal is not None:
        return next(v for v in reversed(get_args(literal)) if v != field.default)
    if bool in kinds:
        return not field.default
    if str in kinds:
        return "1Gi"
    return 32 if field.default != 32 else 64


def companions(name):
    """What a field needs beside it to be valid."""
    return {"batching": "dynamic"} if name in {"batchSize", "batchWaitSeconds"} else {}


def everything_else():
    """By the names of the resource; each is valid by itself, but for its companions."""
    found = {field.alias: another(field) for field in EngineSpec.model_fields.values()}
    # the last choices are those of GPUs, and one of them alone is refused on a CPU
    found |= {
        "compute": "fp32",
        "maxRunning": 5,
        "maxBatchTokens": 512,
        "queueAgeing": 0.5,
        "maxPromptShare": 0.5,
        "batchSize": 5,
    }
    return found | {"speculative": {"method": "draft", "model": "sim://draft", "maxDraft": 3}}


def single_fields():
    """The same, by the path of each field."""
    fields = everything_else()
    del fields["speculative"]
    return fields | {"speculative.method": "off", "speculative.model": "sim://draft", "speculative.maxDraft": 3}

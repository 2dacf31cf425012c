"""Requests of the Open Inference Protocol over HTTP, and of Triton's generate extension, out of JSON.

The model's name is in the path, so these have none.
"""

import json
from typing import Any

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_api.params import SamplingParams
from argosy_router.fronts import oip_tensors
from argosy_router.fronts.fields import Fields, kind
from argosy_router.fronts.oip_sampling import sampling_parameters, take_timeout
from argosy_router.fronts.oip_tensors import Inputs
from argosy_router.fronts.text_request import TextRequest

_MAX_NAME = 256


def infer(document: dict[str, Any]) -> TextRequest:
    """A request to `/infer`: tensors, their values as flat or nested arrays.

    Raises:
        InvalidArgumentError: naming the first field or tensor that is wrong.

    """
    fields = Fields(document)
    identity, parameters = fields.string("id", limit=_MAX_NAME), _object(fields, "parameters")
    given, wanted = fields.array("inputs"), fields.array("outputs")
    fields.end()
    if given is None:
        raise InvalidArgumentError("inputs", "is missing")
    oip_tensors.check_count("inputs", len(given), len(oip_tensors.DATATYPES))
    oip_tensors.check_count("outputs", len(wanted or []), len(oip_tensors.OUTPUTS))
    values: dict[str, list[Any]] = {}
    for i, tensor in enumerate(given):
        name, elements = _tensor(tensor, i)
        oip_tensors.check_name(name, i, values)
        values[name] = elements
    packed = parameters.pop("binary_data_output", False)
    if not isinstance(packed, bool):
        raise InvalidArgumentError("parameters.binary_data_output", f"is {kind(packed)}; must be a boolean")
    named = [_output(output, i) for i, output in enumerate(wanted or [])]
    names = oip_tensors.check_outputs([name for name, _ in named])
    inputs = oip_tensors.gathered(values, names)
    if inputs.stream:
        raise InvalidArgumentError("stream", "must be false here: infer has one answer, generate_stream several")
    own = dict(named)
    binary = {name: packed if own.get(name) is None else own[name] for name in names}
    return _request(inputs, parameters, {"id": identity, "binary": binary})


def generate(document: dict[str, Any]) -> TextRequest:
    """A request to `/generate` or `/generate_stream`: inputs by their names, `parameters` beside them.

    Raises:
        InvalidArgumentError: naming the first field that is wrong.

    """
    fields = Fields(document)
    identity, parameters = fields.string("id", limit=_MAX_NAME), _object(fields, "parameters")
    values: dict[str, list[Any]] = {}
    if (text := fields.string("text_input")) is not None:
        values["text_input"] = [text]
    if (ids := fields.array("input_ids")) is not None:
        values["input_ids"] = _elements("input_ids", "INT64", ids)
    for name in ("stream", "exclude_input_in_output"):
        found = fields.boolean(name)
        beside = Fields({name: parameters.pop(name, None)}, path="parameters.", texts=True).boolean(name)
        if None not in (found, beside) and found != beside:
            raise InvalidArgumentError(f"parameters.{name}", "has another value beside parameters")
        if (value := beside if found is None else found) is not None:
            values[name] = [value]
    if (sampling := fields.raw("sampling_parameters")) is not None:
        values["sampling_parameters"] = [_text(sampling)]
    fields.end()
    inputs = oip_tensors.gathered(values, ("text_output",))
    told = {"id": identity, "streams": values.get("stream", [None])[0]}
    return _request(inputs, parameters, told)


def _request(inputs: Inputs, parameters: dict[str, Any], told: dict[str, Any]) -> TextRequest:
    timeout_s = take_timeout(parameters)
    asked = sampling_parameters(inputs.sampling, parameters)
    return TextRequest(
        model="",
        params=asked.params,
        max_tokens_given=True,
        prompts=[inputs.ids or [] if inputs.text is None else inputs.text],
        stream=inputs.stream,
        echo=inputs.echo,
        return_token_ids="output_ids" in inputs.outputs,
        cache_salt=asked.cache_salt,
        priority=asked.priority,
        bad_words=asked.bad_words,
        constraint=asked.constraint,
        constraint_field=asked.constraint_field,
        timeout_s=timeout_s,
        names={"prompt": "input_ids" if inputs.text is None else "text_input"},
        told={**told, "exclude_input": inputs.exclude_input},
    )


def _tensor(tensor: Any, i: int) -> tuple[str, list[Any]]:
    where = f"inputs[{i}]"
    if not isinstance(tensor, dict):
        raise InvalidArgumentError(where, f"is {kind(tensor)}; must be an object")
    fields = Fields(tensor, path=f"{where}.")
    name, datatype = fields.string("name", limit=_MAX_NAME) or "", fields.string("datatype", limit=_MAX_NAME) or ""
    shape, data = fields.array("shape"), fields.array("data")
    for parameter in _object(fields, "parameters"):
        shown = f"{where}.parameters.{parameter[:100]}"
        if parameter == "binary_data_size":
            raise InvalidArgumentError(shown, "needs the header Inference-Header-Content-Length")
        raise InvalidArgumentError(shown, "is not supported here")
    fields.end()
    oip_tensors.check_name(name, i, ())
    oip_tensors.check_datatype(name, datatype)
    if shape is None or not all(isinstance(size, int) and not isinstance(size, bool) for size in shape):
        raise InvalidArgumentError(f"{where}.shape", "must be an array of integers")
    elements = _elements(name, datatype, [] if data is None else data)
    oip_tensors.check_shape(name, shape, len(elements))
    return name, elements


def _elements(name: str, datatype: str, data: list[Any]) -> list[Any]:
    """All values of arrays in arrays, in order."""
    found: list[Any] = []
    rest = [iter(data)]
    while rest:
        value = next(rest[-1], rest)
        if value is rest:
            rest.pop()
        elif isinstance(value, list):
            if len(rest) >= limits.MAX_DIMENSIONS:
                raise InvalidArgumentError(name, f"has more than {limits.MAX_DIMENSIONS} dimensions")
            rest.append(iter(value))
        else:
            found.append(_element(name, datatype, value))
            oip_tensors.check_elements(name, len(found))
    return found


def _element(name: str, datatype: str, value: Any) -> Any:
    wanted = {"BYTES": str, "BOOL": bool}.get(datatype, int)
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise InvalidArgumentError(name, f"has an element that is {kind(value)}; its datatype is {datatype}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InvalidArgumentError(name, "has an element beyond 64 bits")
    return value


def _output(output: Any, i: int) -> tuple[str, bool | None]:
    """Name, and whether it is wanted in binary form; None where the whole request says so."""
    where = f"outputs[{i}]"
    if not isinstance(output, dict):
        raise InvalidArgumentError(where, f"is {kind(output)}; must be an object")
    fields = Fields(output, path=f"{where}.")
    name, parameters = fields.string("name", limit=_MAX_NAME) or "", Fields(
        _object(fields, "parameters"), path=f"{where}.parameters."
    )  # fmt: skip
    fields.end()
    binary = parameters.boolean("binary_data")
    parameters.end()
    return name, binary


def _object(fields: Fields, name: str) -> dict[str, Any]:
    value = fields.raw(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise fields.wrong(name, value, "an object")
    if len(value) > limits.MAX_PARAMETERS:
        raise InvalidArgumentError(fields.path(name), f"has {len(value)} entries; at most {limits.MAX_PARAMETERS}")
    return dict(value)


def _text(sampling: Any) -> str:
    """The JSON text that the tensor holds; the object itself does as well here."""
    return sampling if isinstance(sampling, str) else json.dumps(sampling)


def index(document: dict[str, Any]) -> TextRequest:
    """A request for the index of models, of those only that are `ready` where it says so. Raises as `generate`."""
    fields = Fields(document)
    ready = fields.boolean("ready") or False
    fields.neutral("repository_name", "")
    fields.end()
    return TextRequest(model="", params=SamplingParams(max_tokens=1), max_tokens_given=True, told={"ready": ready})

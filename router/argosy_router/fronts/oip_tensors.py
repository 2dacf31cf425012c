"""Tensors of the Open Inference Protocol: reading the few that a text model has, strictly, and writing its answers.

A message of 32 MB has room for millions of anything, so everything is counted before it is walked through.
"""

import struct
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from argosy_api import limits
from argosy_api.errors import InvalidArgumentError
from argosy_api.inference import inference_pb2 as oip

DATATYPES: dict[str, tuple[str, ...]] = {
    "text_input": ("BYTES",),
    "input_ids": ("INT32", "INT64"),
    "stream": ("BOOL",),
    "sampling_parameters": ("BYTES",),
    "exclude_input_in_output": ("BOOL",),
}
_CONTENTS = {"BYTES": "bytes_contents", "INT32": "int_contents", "INT64": "int64_contents", "BOOL": "bool_contents"}
_FORMATS = {"INT32": ("i", 4), "INT64": ("q", 8), "BOOL": ("?", 1)}
OUTPUTS = ("text_output", "output_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the tensors of one request say; exactly one of `text` and `ids` is given."""

    text: str | None
    ids: list[int] | None
    stream: bool
    sampling: str
    """JSON object as text."""
    exclude_input: bool | None
    outputs: tuple[str, ...]
    """Wanted output tensors, in order."""

    @property
    def echo(self) -> bool:
        """Triton's default: the prompt stands before an answer, and not before a stream. Its sample asks for both."""
        return not self.stream if self.exclude_input is None else not self.exclude_input


def read(request: oip.ModelInferRequest) -> Inputs:
    """The request's tensors.

    Raises:
        InvalidArgumentError: an unknown, doubled, missing or malformed tensor, by its name.

    """
    check_count("inputs", len(request.inputs), len(DATATYPES))
    check_count("raw_input_contents", len(request.raw_input_contents), len(DATATYPES))
    check_count("outputs", len(request.outputs), len(OUTPUTS))
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise InvalidArgumentError("raw_input_contents", f"has {len(raw)} entries for {len(request.inputs)} inputs")
    values: dict[str, list[Any]] = {}
    for i, tensor in enumerate(request.inputs):
        check_name(tensor.name, i, values)
        values[tensor.name] = _values(tensor, raw[i] if raw else None)
    return gathered(values, check_outputs([output.name for output in request.outputs]))


def gathered(values: Mapping[str, list[Any]], outputs: tuple[str, ...]) -> Inputs:
    """What the elements of the tensors say, by the tensors' names; those of BYTES may be text already.

    Raises:
        InvalidArgumentError: a missing tensor, or one with several elements where one belongs.

    """
    if ("text_input" in values) == ("input_ids" in values):
        raise InvalidArgumentError("text_input", "or input_ids must be given, and only one of them")
    exclude = "exclude_input_in_output"
    return Inputs(
        text=_utf8("text_input", _one("text_input", values["text_input"])) if "text_input" in values else None,
        ids=values.get("input_ids"),
        stream=bool(_one("stream", values["stream"])) if "stream" in values else False,
        sampling=_sampling(values.get("sampling_parameters", [b"{}"])),
        exclude_input=bool(_one(exclude, values[exclude])) if exclude in values else None,
        outputs=outputs,
    )


def check_name(name: str, i: int, seen: Container[str]) -> None:
    """Refuse the i-th input where there is none of its name, or one already."""
    if name not in DATATYPES:
        raise InvalidArgumentError(
            name[:100] or f"inputs[{i}]", f"is not an input of this model; inputs: {', '.join(DATATYPES)}"
        )
    if name in seen:
        raise InvalidArgumentError(name, "is given twice")


def parameters(request: oip.ModelInferRequest) -> dict[str, Any]:
    """The request's own parameters, by name.

    Raises:
        InvalidArgumentError: a parameter of a tensor (there are none here), or one without a value.

    """
    check_count("parameters", len(request.parameters), limits.MAX_PARAMETERS)
    for kind, tensors in (("inputs", request.inputs), ("outputs", request.outputs)):
        for tensor in tensors:
            for name in tensor.parameters:
                raise InvalidArgumentError(
                    f"{kind}.{tensor.name[:100]}.parameters.{name[:100]}", "is not supported here"
                )
    found: dict[str, Any] = {}
    for name, value in request.parameters.items():
        which = value.WhichOneof("parameter_choice")
        if which is None:
            raise InvalidArgumentError(f"parameters.{name[:100]}", "has no value")
        found[name] = getattr(value, which)
    return found


def check_outputs(names: Sequence[str]) -> tuple[str, ...]:
    """The output tensors that are wanted: those named, or all."""
    for name in names:
        if name not in OUTPUTS:
            raise InvalidArgumentError(
                name[:100] or "outputs", f"is not an output of this model; outputs: {', '.join(OUTPUTS)}"
            )
    if len(set(names)) < len(names):
        raise InvalidArgumentError("outputs", "name one tensor twice")
    return tuple(names) or OUTPUTS


def check_datatype(name: str, datatype: str) -> None:
    """Refuse a datatype that the tensor does not have."""
    if datatype not in DATATYPES[name]:
        raise InvalidArgumentError(name, f"has datatype {datatype[:20]!r}; must be {' or '.join(DATATYPES[name])}")


def check_shape(name: str, shape: Sequence[int], elements: int) -> None:
    """Refuse a shape that is none, or means another number of elements."""
    if len(shape) > limits.MAX_DIMENSIONS:
        raise InvalidArgumentError(name, f"has {len(shape)} dimensions; at most {limits.MAX_DIMENSIONS}")
    wanted = 1
    for size in shape:
        if not 0 <= size <= limits.MAX_CLIENT_MESSAGE:
            raise InvalidArgumentError(name, f"has shape {list(shape)[:8]}")
        wanted *= size
    if elements != wanted:
        raise InvalidArgumentError(name, f"has {elements} elements; its shape {list(shape)[:8]} means {wanted}")


def _values(tensor: Any, raw: bytes | None) -> list[Any]:
    name, datatype = tensor.name, tensor.datatype
    check_datatype(name, datatype)
    if raw is None:
        filled = [field.name for field, _ in tensor.contents.ListFields()]
        if filled and filled != [_CONTENTS[datatype]]:
            raise InvalidArgumentError(name, f"has {', '.join(filled)}; a {datatype} tensor has {_CONTENTS[datatype]}")
        found = getattr(tensor.contents, _CONTENTS[datatype])
        check_elements(name, len(found))
        values = list(found)
    elif tensor.HasField("contents"):
        raise InvalidArgumentError(name, "has both contents and raw_input_contents")
    else:
        values = unpack(name, datatype, raw)
    check_shape(name, tensor.shape, len(values))
    return values


def unpack(name: str, datatype: str, raw: bytes) -> list[Any]:
    """The elements of a tensor in binary form: numbers little-endian, texts each after its length."""
    if datatype == "BYTES":
        return _unpack_bytes(name, raw)
    letter, width = _FORMATS[datatype]
    if len(raw) % width:
        raise InvalidArgumentError(name, f"has {len(raw)} raw bytes; {datatype} elements have {width}")
    check_elements(name, len(raw) // width)
    return list(struct.unpack(f"<{len(raw) // width}{letter}", raw))


def _unpack_bytes(name: str, raw: bytes) -> list[bytes]:
    """Elements, each after its length as little-endian u32."""
    values: list[bytes] = []
    at = 0
    while at < len(raw):
        check_elements(name, len(values) + 1)
        if at + 4 > len(raw):
            raise InvalidArgumentError(name, "is cut off within a length")
        (size,) = struct.unpack_from("<I", raw, at)
        at += 4
        if at + size > len(raw):
            raise InvalidArgumentError(name, f"is cut off: an element of {size} bytes has only {len(raw) - at}")
        values.append(raw[at : at + size])
        at += size
    return values


def check_count(field: str, count: int, most: int) -> None:
    """Refuse more entries than a field may have."""
    if count > most:
        raise InvalidArgumentError(field, f"has {count} entries; at most {most}")


def check_elements(name: str, count: int) -> None:
    """Refuse more elements than the tensor may have."""
    most = limits.MAX_PROMPT_IDS if name == "input_ids" else 1
    if count > most:
        raise InvalidArgumentError(name, f"has {count if most > 1 else 'several'} elements; at most {most}")


def _sampling(values: Sequence[bytes | str]) -> str:
    raw = _one("sampling_parameters", values)
    if len(raw) > limits.MAX_SAMPLING_BYTES:
        raise InvalidArgumentError("sampling_parameters", f"has {len(raw)} bytes; at most {limits.MAX_SAMPLING_BYTES}")
    return _utf8("sampling_parameters", raw)


def _one(name: str, values: Sequence[Any]) -> Any:
    if len(values) != 1:
        raise InvalidArgumentError(name, f"has {len(values)} elements; must have 1")
    return values[0]


def _utf8(name: str, value: bytes | str) -> str:
    try:
        if isinstance(value, str):
            value.encode()
            return value
        return value.decode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(name, "is not valid Unicode text") from None
    except UnicodeDecodeError:
        raise InvalidArgumentError(name, "is not UTF-8") from None


def response(model: str, identity: str, wanted: Sequence[str], text: str, ids: Sequence[int]) -> oip.ModelInferResponse:
    """One answer with raw contents: text_output BYTES [1], output_ids INT64 [n]."""
    message = oip.ModelInferResponse(model_name=model, model_version="1", id=identity)
    for name in wanted:
        if name == "text_output":
            message.outputs.add(name=name, datatype="BYTES", shape=[1])
            message.raw_output_contents.append(pack_text(text))
        else:
            message.outputs.add(name=name, datatype="INT64", shape=[len(ids)])
            message.raw_output_contents.append(pack_ids(ids))
    return message


def pack_text(text: str) -> bytes:
    """A tensor of one text in binary form."""
    encoded = text.encode()
    return struct.pack("<I", len(encoded)) + encoded


def pack_ids(ids: Sequence[int]) -> bytes:
    """A tensor of token ids in binary form."""
    return struct.pack(f"<{len(ids)}q", *ids)

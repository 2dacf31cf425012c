"""Answers of the Open Inference Protocol over HTTP: tensors in JSON or in binary form, and generate's plain fields."""

from collections.abc import Sequence
from typing import Any

from argosy_api.errors import ArgosyError
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.fronts import dialects, oip_binary, oip_tensors
from argosy_router.fronts.gathered import Gathered, finish_reason
from argosy_router.fronts.oai_answer import sse
from argosy_router.fronts.oip_models import VERSION
from argosy_router.fronts.text_request import TextRequest
from argosy_router.prepared import Prepared


def _head(request: TextRequest) -> dict[str, Any]:
    named = {"model_name": request.model, "model_version": VERSION}
    return {**named, "id": request.told["id"]} if request.told["id"] else named


class OipAnswer:
    """Makes the one answer to /infer."""

    def __init__(self, request: TextRequest, prepared: Prepared) -> None:
        self.request = request
        self._echo = "".join(prepared.texts)

    async def whole(self, gathered: Sequence[Gathered]) -> dict[str, Any] | oip_binary.Packed:
        """Its tensors, in the order and the form that were asked for."""
        (one,) = gathered
        text = self._echo + "".join(one.text)
        outputs, values = list[dict[str, Any]](), list[bytes]()
        for name, binary in self.request.told["binary"].items():
            texts = name == "text_output"
            tensor = {
                "name": name,
                "datatype": "BYTES" if texts else "INT64",
                "shape": [1] if texts else [len(one.token_ids)],
            }
            if binary:
                values.append(oip_tensors.pack_text(text) if texts else oip_tensors.pack_ids(one.token_ids))
                outputs.append({**tensor, "parameters": {"binary_data_size": len(values[-1])}})
            else:
                outputs.append({**tensor, "data": [text] if texts else one.token_ids})
        document = {**_head(self.request), "outputs": outputs}
        return oip_binary.packed(document, values) if values else document


class GenerateAnswer:
    """Makes the answer to /generate, and the events of /generate_stream."""

    content_type = "text/event-stream; charset=utf-8"

    def __init__(self, request: TextRequest, prepared: Prepared) -> None:
        self.request = request
        self._begin = "".join(prepared.texts)

    async def whole(self, gathered: Sequence[Gathered]) -> dict[str, Any]:
        """The answer at once."""
        (one,) = gathered
        return self._said("".join(one.text))

    def opening(self, _: Sequence[int], /) -> bytes:
        """Nothing: the prompt, where it is wanted, stands in the first event."""
        return b""

    async def event(self, _: int, chunk: pb.GenerateChunk) -> bytes:
        """What has come; the last event may bring nothing more."""
        text = chunk.text
        return sse(self._said(text)) if text or finish_reason(chunk) else b""

    def ending(self, _: Sequence[int], __: int, /) -> bytes:
        """Nothing: the stream ends."""
        return b""

    def failure(self, error: ArgosyError) -> bytes:
        """The error as the last event."""
        return sse(dialects.ollama(dialects.fault_of(error)))

    def _said(self, text: str) -> dict[str, Any]:
        text, self._begin = self._begin + text, ""
        return {**_head(self.request), "text_output": text}

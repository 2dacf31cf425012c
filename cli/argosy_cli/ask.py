"""`argosy generate` and `argosy chat`: questions from the terminal."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from argosy_api.convert import params_to_proto
from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2 as pb
from argosy_cli.client import Answer, Client
from argosy_cli.errors import RequestError


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str


def chat_request(model: str, turns: Sequence[Turn], sampling: SamplingParams) -> pb.InferenceRequest:
    """A conversation, for the model's own chat template."""
    sampling.check()
    messages = [pb.ChatMessage(role=t.role, content=t.content) for t in turns]
    return pb.InferenceRequest(model=model, chat=pb.Chat(messages=messages), sampling=params_to_proto(sampling))


def raw_request(model: str, prompt: str, sampling: SamplingParams) -> pb.InferenceRequest:
    """A text to go on with, as it is."""
    sampling.check()
    return pb.InferenceRequest(model=model, text=prompt, sampling=params_to_proto(sampling))


def generate(client: Client, request: pb.InferenceRequest, *, out: TextIO) -> Answer:
    """Write the answer as it comes. Ctrl-C ends it."""
    answer = Answer()
    stream = client.stream(request, answer)
    try:
        for text in stream:
            out.write(text)
            out.flush()
    finally:
        with contextlib.suppress(RequestError):
            stream.close()  # type: ignore[attr-defined]
        if answer.text and not answer.text.endswith("\n"):
            out.write("\n")
            out.flush()
    return answer


def chat(client: Client, model: str, sampling: SamplingParams, *, system: str | None, source: TextIO) -> None:
    """Turn by turn until the end of the input. A turn that fails is reported and forgotten."""
    turns = [Turn("system", system)] if system else []
    for question in _questions(source):
        if not question.strip():
            continue
        turns.append(Turn("user", question))
        answer = _answer(client, chat_request(model, turns, sampling), interactive=source.isatty())
        if answer is None:
            turns.pop()
        else:
            turns.append(Turn("assistant", answer.text))


def _answer(client: Client, request: pb.InferenceRequest, *, interactive: bool) -> Answer | None:
    answer = Answer()
    stream = client.stream(request, answer)
    try:
        for text in stream:
            print(text, end="", flush=True)
    except KeyboardInterrupt:
        if not interactive:
            raise
        stream.close()  # type: ignore[attr-defined]  # cancels the request; what was said stays in the conversation
    except RequestError as error:
        if not interactive:
            raise
        print(f"\nerror: {error.message}", file=sys.stderr)
        return None
    print()
    print(answer.summary(), file=sys.stderr)
    return answer


def _questions(source: TextIO) -> Iterator[str]:
    if not source.isatty():
        yield from (line.rstrip("\n") for line in source)
        return
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, PLC0415 - gives input() line editing and history
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:  # at the prompt it only drops the line
            print("\n(Ctrl-D leaves)")

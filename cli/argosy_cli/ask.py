"""`argosy generate` and `argosy chat`: questions from the terminal."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from argosy_api.convert import params_to_proto
from argosy_api.params import SamplingParams
from argosy_api.v1 import worker_pb2 as pb
from argosy_cli.client import Answer, Client
from argosy_cli.errors import RequestError
from argosy_cli.talk import LeaveError, Talk, Turn

_QUOTES = '"""'


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
    talk = Talk(model, sampling, system)
    interactive = source.isatty()
    for question in _questions(source):
        if interactive and question.startswith("/"):
            try:
                print(talk.command(question))
            except LeaveError:
                return
            continue
        if not question.strip():
            continue
        talk.said.append(Turn("user", question.strip() if interactive else question))
        answer = _answer(client, chat_request(model, talk.turns, talk.sampling), interactive=interactive)
        if answer is None:
            talk.said.pop()
        else:
            talk.said.append(Turn("assistant", answer.text))


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
            line = input("> ")
            while line.startswith(_QUOTES) and (line == _QUOTES or not line.endswith(_QUOTES)):
                line += "\n" + input(". ")
            yield line.removeprefix(_QUOTES).removesuffix(_QUOTES) if line.startswith(_QUOTES) else line
        except EOFError:
            print()
            return
        except KeyboardInterrupt:  # at the prompt it only drops the line
            print("\n(/bye or Ctrl-D leaves; /help says what else there is)")

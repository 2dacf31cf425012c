"""One request's answer inside the engine thread: from tokens to chunks."""

from argosy_api.errors import ArgosyError, InternalError, InvalidArgumentError
from argosy_worker.core.batch import Refusal
from argosy_worker.core.request import Finish, Request
from argosy_worker.core.scheduler import Advance
from argosy_worker.engine.detokenize import Detokenizer, TextVocabulary
from argosy_worker.engine.metrics import WorkerMetrics
from argosy_worker.engine.stream import Piece, Stream, Usage


class Reply:
    """Turns a request's progress into chunks, and knows its times."""

    def __init__(self, request: Request, stream: Stream, vocabulary: TextVocabulary, metrics: WorkerMetrics) -> None:
        self.request = request
        self.stream = stream
        self._metrics = metrics
        params = request.params
        self._text = Detokenizer(vocabulary, params.stop, min_tokens=params.min_tokens, prompt=request.prompt)
        self._sent = len(request.resumed)
        self._ahead = ""  # text of the resumed tokens that the reader lacks
        self._first_token_at = 0.0
        self._last_token_at: float | None = None

    def resume(self) -> Piece | None:
        """Take in the tokens that another attempt has generated: their text, as it came piece by piece.

        Returns the last chunk where the answer ended with the last of them, so that nothing is left to generate.

        Raises:
            InvalidArgumentError: no attempt can have sent these tokens, or so much text of them.

        """
        request, resumed = self.request, self.request.resumed
        if not resumed:
            return None
        chunk, begin = Piece(index=len(resumed)), len(request.prompt)
        for count, token in enumerate(resumed, 1):
            finish, stop_reason = request.finish_after(begin + count) or (None, "")
            self._add_tokens(chunk, Advance(request, [token], (), finish, stop_reason))
            if chunk.finish is not None and count < len(resumed):
                raise InvalidArgumentError(
                    "resumed_tokens", f"has {len(resumed)} tokens; the answer ended with the first {count}"
                )
        chunk.tokens.clear()
        chunk.text = _rest(chunk.text, request.resumed_text_bytes)
        if chunk.finish is None:
            self._ahead = chunk.text
            return None
        chunk.usage = self._usage()
        self._metrics.finished(chunk.finish)
        return chunk

    def advance(self, progress: Advance, now: float) -> Piece | ArgosyError | None:
        """What to send: a chunk, the error that ends the request, or nothing while the prompt is being computed."""
        if progress.finish is Finish.ERROR:
            self._metrics.finished(Finish.ERROR)
            if isinstance(progress.error, Refusal):
                return InvalidArgumentError("constraint", progress.error)
            return InternalError(progress.error)
        if not progress.tokens:
            return None
        chunk = Piece(index=self._sent, text=self._ahead)
        self._ahead = ""
        first = self._last_token_at is None
        if first:
            chunk.prompt_logprobs = list(self.request.prompt_logprobs)
            chunk.embedding = [] if self.request.pool is None else list(self.request.pool.vector())
        self._add_tokens(chunk, progress)
        self._sent += len(chunk.tokens)
        self._observe(now, len(chunk.tokens))
        self._last_token_at = now
        if (first and not self.request.resumed) or chunk.finish is not None:
            chunk.usage = self._usage()
        if chunk.finish is not None:
            self._metrics.finished(chunk.finish)
            self._metrics.whole(
                took_s=now - self.request.arrival,
                prefill_s=self._first_token_at - self._admitted,
                decode_s=now - self._first_token_at,
                prompt_tokens=len(self.request.prompt),
                tokens=self._sent - len(self.request.resumed),
            )
        return chunk

    def aborted(self) -> Piece:
        """The last chunk of a request that is aborted: no token, but the text that was held back."""
        self._metrics.finished(Finish.ABORT)
        text, _ = self._text.finish()
        return Piece(index=self._sent, text=self._ahead + text, finish=Finish.ABORT, usage=self._usage())

    def _add_tokens(self, chunk: Piece, progress: Advance) -> None:
        """Tokens and their text, up to where a stop string ends the request; it goes before the other reasons."""
        stop: str | None = None
        for i, token in enumerate(progress.tokens):
            chunk.tokens.append(token)
            chunk.logprobs += progress.logprobs[i : i + 1]
            last = i == len(progress.tokens) - 1
            if not (last and progress.finish is Finish.STOP):  # the text of a stop token is no part of the answer
                text, stop = self._text.push(token)
                chunk.text += text
            if stop is None and last and progress.finish is not None:
                chunk.finish, chunk.stop_reason = progress.finish, progress.stop_reason
                rest, stop = self._text.finish()
                chunk.text += rest
            if stop is not None:
                chunk.finish, chunk.stop_reason = Finish.STOP, stop
                return

    def _observe(self, now: float, count: int) -> None:
        request, gap = self.request, 0.0
        if self._last_token_at is None:
            self._first_token_at = now
            self._metrics.first_token(
                queued_s=self._admitted - request.arrival,
                ttft_s=now - request.arrival,
                prompt_tokens=len(request.prompt),
                cached_tokens=request.cached_tokens,
            )
            count -= 1
        else:  # tokens of one step share the time since the last
            gap = (now - self._last_token_at) / count
        if count:
            self._metrics.next_tokens(gap, count)

    @property
    def _admitted(self) -> float:
        return self.request.arrival if self.request.admitted_at is None else self.request.admitted_at

    def _usage(self) -> Usage:
        return Usage(len(self.request.prompt), self.request.cached_tokens, self._sent)


def _rest(text: str, have: int) -> str:
    """Text after its first `have` UTF-8 bytes. Raises InvalidArgumentError."""
    data = text.encode()
    if have > len(data):
        problem = f"is {have}; the text that surely belongs to these tokens has {len(data)} bytes"
        raise InvalidArgumentError("resumed_text_bytes", problem)
    try:
        return data[have:].decode()
    except UnicodeDecodeError:
        raise InvalidArgumentError("resumed_text_bytes", f"is {have}, which is within a character") from None

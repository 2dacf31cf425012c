"""One request's answer inside the engine thread: from tokens to chunks."""

from argosy_api.errors import ArgosyError, InternalError
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
        self._last_token_at: float | None = None

    def advance(self, progress: Advance, now: float) -> Piece | ArgosyError | None:
        """What to send: a chunk, the error that ends the request, or nothing while the prompt is being computed."""
        if progress.finish is Finish.ERROR:
            self._metrics.finished(Finish.ERROR)
            return InternalError(progress.error)
        if progress.token is None:
            return None
        chunk = Piece(index=self.request.generated - 1, tokens=[progress.token])
        if progress.logprob is not None:
            chunk.logprobs.append(progress.logprob)
        first = self._last_token_at is None
        if first:
            chunk.prompt_logprobs = list(self.request.prompt_logprobs)
        self._observe(now)
        self._last_token_at = now
        self._add_text(chunk, progress)
        if first or chunk.finish is not None:
            chunk.usage = self._usage()
        if chunk.finish is not None:
            self._metrics.finished(chunk.finish)
        return chunk

    def aborted(self) -> Piece:
        """The last chunk of a request that is aborted: no token, but the text that was held back."""
        self._metrics.finished(Finish.ABORT)
        text, _ = self._text.finish()
        return Piece(index=self.request.generated, text=text, finish=Finish.ABORT, usage=self._usage())

    def _add_text(self, chunk: Piece, progress: Advance) -> None:
        """The token's text, and the end of the request: a stop string goes before the other reasons."""
        chunk.finish, chunk.stop_reason = progress.finish, progress.stop_reason
        stop: str | None = None
        if chunk.finish is not Finish.STOP:  # the text of a stop token is no part of the answer
            chunk.text, stop = self._text.push(chunk.tokens[0])
        if stop is None and chunk.finish is not None:
            rest, stop = self._text.finish()
            chunk.text += rest
        if stop is not None:
            chunk.finish, chunk.stop_reason = Finish.STOP, stop

    def _observe(self, now: float) -> None:
        request = self.request
        if self._last_token_at is None:
            admitted = request.arrival if request.admitted_at is None else request.admitted_at
            self._metrics.first_token(
                queued_s=admitted - request.arrival,
                ttft_s=now - request.arrival,
                prompt_tokens=len(request.prompt),
                cached_tokens=request.cached_tokens,
            )
        else:
            self._metrics.next_token(now - self._last_token_at)

    def _usage(self) -> Usage:
        return Usage(len(self.request.prompt), self.request.cached_tokens, self.request.generated)

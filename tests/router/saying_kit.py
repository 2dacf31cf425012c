"""A worker that answers with what a test wants to be said, and a template that knows tools and reasoning."""

from router_kit import FakeWorker, encode

from argosy_api.v1 import worker_pb2 as pb

KNOWING = (
    "{% if tools %}TOOLS {{ tools | tojson }}\n{% endif %}{% for d in documents or [] %}DOC {{ d.text }}\n{% endfor %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}\n"
    "{% endfor %}{% if loud %}LOUD{% endif %}assistant:{% if enable_thinking %}<think>{% endif %}"
)


class Saying(FakeWorker):
    """Answers with one fixed text, a token for each character; those beyond ASCII have the token of a question mark."""

    text = ""
    stop_reason = ""
    cut = False
    """Whether max_tokens ends the answer."""
    from_cache = 0

    async def _generate(self, request, context):
        self.emit()
        await context.send_initial_metadata(())
        ids = encode("".join(c if c.isascii() else "?" for c in self.text))
        for i, token in enumerate(ids):
            last = i == len(ids) - 1
            finish = pb.FINISH_REASON_LENGTH if self.cut else pb.FINISH_REASON_STOP
            usage = pb.Usage(prompt_tokens=1, completion_tokens=i + 1, cached_tokens=self.from_cache)
            yield pb.GenerateChunk(
                request_id=request.request_id, attempt=request.attempt, index=i, token_ids=[token], text=self.text[i],
                finish_reason=finish if last else pb.FINISH_REASON_UNSPECIFIED, stop_reason=self.stop_reason if last else "",
                usage=usage if last or not i else None,
            )  # fmt: skip

"""What a router knows of a served model: its text work, and how its blocks are addressed."""

import asyncio
import hashlib
import logging
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from weakref import WeakSet

from argosy_api import blocks, limits
from argosy_api.errors import ModelInvalidError
from argosy_api.order import RESOURCE_DEFAULTS, Discipline, Order
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.children.child import Child, JobFailedError, JobKilledError, JobRefusedError
from argosy_router.children.frames import Frame
from argosy_router.text import grammars
from argosy_router.text.model_text import ModelText, Wanted
from argosy_router.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)

KEPT_MODELS = 64
"""Models (by tokenizer and template) whose description is kept, within MAX_KEPT_TEXT_BYTES."""
AWAKE_MODELS = 16
"""How many child processes run for them, of two kinds; the others start at their next request."""
JOB_S = 10.0
"""Time for one text or chat, in the child."""
WORK = "argosy_router.text.work"
MAX_AGEING = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A worker's ModelInfo without its bulk (a hundred workers of one model share one tokenizer)."""

    worker_id: str
    epoch: int
    fingerprint: str
    block_hash_version: int
    block_size: int
    total_blocks: int
    host_blocks: int = 0
    """Evicted ones that it may know besides."""
    max_model_len: int
    vocab_size: int
    architecture: str
    quantization: str
    compute: str
    revision: str
    role: str = ""
    """`prefill` or `decode`; empty: it does everything."""
    embedding_size: int = 0
    """Numbers of an embedding; 0: it gives none."""
    kv_layout: str = ""
    """What the bytes of its blocks mean; empty: it does not exchange any."""
    kv_block_bytes: int = 0
    sessions: bool = False
    """Whether it takes calls over one stream."""
    discipline: Discipline
    """How the engine orders its line."""
    tokenizer_key: str
    """Equal where equal text gives equal token ids and the template is the same."""

    def answers_as(self, other: "ServedModel | None", *, wanted: int | None = None) -> bool:
        """Whether it computes the same bits as `other`, and so gives the same answer.

        `wanted`: of a request of so many tokens, prompt and answer, which a shorter context would cut.
        """
        if other is None:
            return True
        mine, its = self.max_model_len, other.max_model_len
        if wanted is not None:
            mine, its = min(mine, wanted), min(its, wanted)
        return self.fingerprint == other.fingerprint and (wanted is None or mine == its)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """How a deployment's requests are turned into tokens and block ids."""

    facts: ServedModel
    text: ModelText

    def indexable(self, other: ServedModel) -> bool:
        """Whether that worker's blocks have the ids that this card computes."""
        mine = self.facts
        return (
            other.block_hash_version == blocks.VERSION
            and other.fingerprint == mine.fingerprint
            and other.block_size == mine.block_size
        )

    def wanted(self, salt: str, *, adapter: str = "", offsets: bool = False, special: bool = True) -> Wanted:
        """How a prompt is to be encoded: up to which length, and as which blocks. `adapter`: its digest."""
        root = blocks.root_id(self.facts.fingerprint, adapter=adapter, salt=salt)
        facts = self.facts
        return Wanted(
            most=facts.max_model_len, root=root, block_size=facts.block_size, offsets=offsets, special=special
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    text: ModelText
    child: Child
    trials: Child
    size: int
    """Bytes that it takes here."""


class ModelLibrary:
    """The text work of all models: a child process for each tokenizer and template, whoever of the workers has it."""

    def __init__(self, *, job_s: float = JOB_S) -> None:
        self._job_s = job_s
        self._loaded: dict[str, _Loaded] = {}
        self._children: WeakSet[Child] = WeakSet()
        """All that run or may be woken: those of kept models, and of such that a deployment's card alone still has."""
        self._loading: dict[str, asyncio.Lock] = {}

    async def facts(self, info: pb.ModelInfo) -> ServedModel:
        """What a worker says about its model; starts the model's child process if it is a new one.

        Raises:
            ModelInvalidError: a tokenizer that cannot be read, or takes more time or memory than it may; more blocks
                than a worker may have.

        """
        if info.total_blocks > limits.MAX_WORKER_BLOCKS:
            raise ModelInvalidError(f"total_blocks is {info.total_blocks}; at most {limits.MAX_WORKER_BLOCKS}")
        most = limits.MAX_WORKER_BLOCKS - info.total_blocks
        if info.host_blocks > most:
            raise ModelInvalidError(f"host_blocks is {info.host_blocks}; at most {most} beside total_blocks")
        key = await asyncio.to_thread(_key, info)
        async with self._loading.setdefault(key, asyncio.Lock()):
            if key not in self._loaded:
                self._loaded[key] = await self._load(info)
        self._loading.pop(key, None)
        self._make_room(key)
        return ServedModel(
            worker_id=info.worker_id,
            epoch=info.epoch,
            fingerprint=info.fingerprint,
            block_hash_version=info.block_hash_version,
            block_size=info.block_size,
            total_blocks=info.total_blocks,
            host_blocks=info.host_blocks,
            max_model_len=info.max_model_len,
            vocab_size=info.vocab_size,
            architecture=info.architecture,
            quantization=info.quantization,
            compute=info.compute,
            revision=info.revision,
            role=info.role,
            embedding_size=info.embedding_size,
            kv_layout=info.kv_layout,
            kv_block_bytes=info.kv_block_bytes,
            sessions=info.sessions,
            discipline=_discipline(info),
            tokenizer_key=key,
        )

    def card(self, facts: Iterable[ServedModel]) -> ModelCard | None:
        """The card for a deployment whose workers have `facts`: that of most of them (of equals, of the latest epoch).

        None when there is no worker, or its tokenizer is not at hand any more.
        """
        known = [f for f in facts if f.tokenizer_key in self._loaded and f.block_size > 0]
        if not known:
            return None
        count = Counter((f.fingerprint, f.tokenizer_key, f.block_size) for f in known)
        best = max(known, key=lambda f: (count[f.fingerprint, f.tokenizer_key, f.block_size], f.epoch))
        # what fits one replica is understood; who can hold it is asked for each request
        longest = max(f.max_model_len for f in known if f.tokenizer_key == best.tokenizer_key)
        return ModelCard(facts=replace(best, max_model_len=longest), text=self._loaded[best.tokenizer_key].text)

    async def close(self) -> None:
        """Ends all child processes."""
        await asyncio.gather(*(child.close() for child in list(self._children)))

    async def _load(self, info: pb.ModelInfo) -> _Loaded:
        if len(info.tokenizer_json) > limits.MAX_TOKENIZER_BYTES:
            raise ModelInvalidError(
                f"the tokenizer has {len(info.tokenizer_json)} bytes; at most {limits.MAX_TOKENIZER_BYTES}"
            )
        parts = [info.tokenizer_json, info.chat_template.encode()]
        special = dict(info.special_tokens)

        def opening() -> Frame:
            return {"op": "open", "special_tokens": special}, parts

        vocabulary = {"op": "open", "vocabulary": info.vocab_size, "ends": list(info.eos_token_ids)}
        child = Child(WORK, opening, job_s=self._job_s, woken=self._woken)
        trials = Child(grammars.WORK, lambda: (vocabulary, parts[:1]), job_s=grammars.JOB_S, woken=self._woken)
        try:
            header, (lengths, data) = await child.open()
            text = ModelText(
                child, trials, Vocabulary(array("I", lengths), data, header["special"]), info.chat_template
            )
        except (JobRefusedError, JobFailedError, JobKilledError, ValueError, KeyError, TypeError) as error:
            await child.close()
            raise ModelInvalidError(f"the worker's tokenizer or template cannot be used: {error}") from error
        self._children.update((child, trials))
        size = sum(map(len, parts)) + text.vocabulary.size
        return _Loaded(text=text, child=child, trials=trials, size=size)

    def _make_room(self, latest: str) -> None:
        """Gives up the models that were used least lately: too many, or too large together. `latest` stays."""
        kept = self._loaded
        while len(kept) > 1 and (
            len(kept) > KEPT_MODELS or sum(one.size for one in kept.values()) > limits.MAX_KEPT_TEXT_BYTES
        ):
            gone = min((key for key in kept if key != latest), key=lambda key: kept[key].child.used_at)
            left = kept.pop(gone)
            for child in (left.child, left.trials):
                child.sleep()  # a deployment that still has its card wakes it

    def _woken(self, child: Child) -> None:
        """One more child runs: where there are too many, the one that was used least lately is put to sleep."""
        awake = sorted((c for c in self._children if c.awake and c is not child), key=lambda c: (c.busy, c.used_at))
        for one in awake[: max(0, len(awake) + 1 - AWAKE_MODELS)]:
            one.sleep()


def _key(info: pb.ModelInfo) -> str:
    """Equal where equal text gives equal token ids."""
    digest = hashlib.blake2b(info.tokenizer_json, digest_size=16)
    digest.update(repr((info.chat_template, sorted(info.special_tokens.items()))).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _discipline(info: pb.ModelInfo) -> Discipline:
    """As the deployment's resource asks; the resource's defaults where the worker names none."""
    default = RESOURCE_DEFAULTS
    order = Order(info.queue_order) if info.queue_order in set(Order) else default.order
    ageing = info.queue_ageing if info.HasField("queue_ageing") and 0 <= info.queue_ageing < MAX_AGEING else None
    return Discipline(order, default.ageing if ageing is None else ageing)

"""What a router knows of a served model: the tokenizer, the chat template and how its blocks are addressed."""

import asyncio
import hashlib
import logging
from collections import Counter, OrderedDict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from argosy_api import blocks
from argosy_api.v1 import worker_pb2 as pb
from argosy_router.routing.books import RESOURCE_DEFAULTS, Discipline, Order
from argosy_router.text.chat import ChatRenderer
from argosy_router.text.tokenize import Text

log = logging.getLogger(__name__)

KEPT_TOKENIZERS = 64
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
    max_model_len: int
    vocab_size: int
    architecture: str
    quantization: str
    compute: str
    revision: str
    bos_token_id: int | None
    add_bos: bool
    discipline: Discipline
    """How the engine orders its line."""
    tokenizer_key: str
    """Equal where equal text gives equal token ids and the template is the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """How a deployment's requests are turned into tokens and block ids."""

    facts: ServedModel
    text: Text
    chat: ChatRenderer

    def indexable(self, other: ServedModel) -> bool:
        """Whether that worker's blocks have the ids that this card computes."""
        mine = self.facts
        return (
            other.block_hash_version == blocks.VERSION
            and other.fingerprint == mine.fingerprint
            and other.block_size == mine.block_size
        )

    def block_ids(self, tokens: list[int], salt: str) -> list[bytes]:
        """Ids of the prompt's full blocks."""
        return blocks.block_ids(blocks.root_id(self.facts.fingerprint, salt=salt), tokens, self.facts.block_size)


class ModelLibrary:
    """Tokenizers and templates, each loaded once, off the event loop."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._loaded: OrderedDict[str, tuple[Text, ChatRenderer]] = OrderedDict()

    async def facts(self, info: pb.ModelInfo) -> ServedModel:
        """Loads the tokenizer if it is a new one.

        Raises:
            ModelInvalidError: a tokenizer that cannot be read.

        """
        key = hashlib.blake2b(
            b"\0".join([
                info.tokenizer_json, info.chat_template.encode(), repr(sorted(info.special_tokens.items())).encode(),
                repr((info.add_bos, info.bos_token_id)).encode(),
            ]),
            digest_size=16,
        ).hexdigest()  # fmt: skip
        if key not in self._loaded:
            text = await asyncio.get_running_loop().run_in_executor(self._pool, Text, info.tokenizer_json)
            chat = ChatRenderer(info.chat_template, dict(info.special_tokens))
            self._loaded[key] = (text, chat)
            while len(self._loaded) > KEPT_TOKENIZERS:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(key)
        return ServedModel(
            worker_id=info.worker_id,
            epoch=info.epoch,
            fingerprint=info.fingerprint,
            block_hash_version=info.block_hash_version,
            block_size=info.block_size,
            total_blocks=info.total_blocks,
            max_model_len=info.max_model_len,
            vocab_size=info.vocab_size,
            architecture=info.architecture,
            quantization=info.quantization,
            compute=info.compute,
            revision=info.revision,
            bos_token_id=info.bos_token_id if info.HasField("bos_token_id") else None,
            add_bos=info.add_bos,
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
        text, chat = self._loaded[best.tokenizer_key]
        # what fits one replica is understood; who can hold it is asked for each request
        longest = max(f.max_model_len for f in known if f.tokenizer_key == best.tokenizer_key)
        return ModelCard(facts=replace(best, max_model_len=longest), text=text, chat=chat)


def _discipline(info: pb.ModelInfo) -> Discipline:
    """As the deployment's resource asks; the resource's defaults where the worker names none."""
    default = RESOURCE_DEFAULTS
    order = Order(info.queue_order) if info.queue_order in set(Order) else default.order
    ageing = info.queue_ageing if info.HasField("queue_ageing") and 0 <= info.queue_ageing < MAX_AGEING else None
    return Discipline(order, default.ageing if ageing is None else ageing)

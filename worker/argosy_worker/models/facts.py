"""Facts of a loaded model, and its fingerprint."""

import hashlib
from collections.abc import Callable
from dataclasses import fields

from argosy_worker.compute.config import DecoderConfig, window_of
from argosy_worker.compute.native import library
from argosy_worker.compute.quant.precision import NATIVE, Precision
from argosy_worker.core.facts import ModelFacts
from argosy_worker.models.open_model import OpenModel

Progress = Callable[[str, float], None]
_FINGERPRINT_VERSION = b"argosy-model-6"


def facts_of(
    model: OpenModel,
    config: DecoderConfig,
    precision: Precision,
    *,
    kv: str,
    device: str,
    arithmetic: bytes,
    exactness: str,
    instruction_set: str,
    weights_bytes: int,
) -> ModelFacts:
    """All of it. `arithmetic`: what decides the bits that are computed here."""
    tokenizer = model.tokenizer
    digest = hashlib.sha256(_FINGERPRINT_VERSION)
    for part in (
        repr(config).encode(),
        repr(precision).encode(),
        kv.encode(),
        tokenizer.tokenizer_json,
        arithmetic,
        library.sources().encode() if precision.weights in NATIVE else b"",
        *model.samples(),
    ):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return ModelFacts(
        architecture=config.architecture,
        quantization=model.weights.formats(),
        compute=precision.compute,
        kv_dtype=kv,
        device=device,
        vocab_size=config.vocab_size,
        context_length=config.context_length,
        window=window_of(config.layer_specs()),
        **{field.name: getattr(tokenizer, field.name) for field in fields(tokenizer)},
        fingerprint=digest.hexdigest()[:32],
        embedding_size=config.hidden if model.pooling else 0,
        pooling=model.pooling,
        exactness=exactness,
        instruction_set=instruction_set,
        weights_bytes=weights_bytes,
    )

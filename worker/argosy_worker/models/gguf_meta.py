"""The metadata of a GGUF file, read with types, and which of its keys may be passed over.

Files are strangers': a value of another type than its key has is an error that names the key. A key that changes what a
model computes and that nobody here honours is refused: an answer computed as if it were not there would be wrong, and
nobody would notice.
"""

from typing import Any

import numpy as np

from argosy_api.errors import ModelInvalidError, ModelUnsupportedError

_HARMLESS = frozenset(
    {
        "rope.scaling.finetuned",  # says where the factor comes from
        "tensor_data_layout",  # of the original checkpoint; the file's own layout is fixed
        "vocab_size",  # the embedding says it
    }
)
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0.0,),
    "attention.scale": (0.0,),
    "attn_logit_softcapping": (0.0,),
    "embedding_scale": (0.0, 1.0),
    "final_logit_softcapping": (0.0,),
    "logit_scale": (0.0, 1.0),
    "pooling_type": (0,),
    "residual_scale": (0.0, 1.0),
    "rope.scaling.attn_factor": (1.0,),
    "use_parallel_residual": (False,),
}
"""Keys with the values that change nothing."""
_TOKENIZER = frozenset(
    {
        "add_bos_token",
        "add_space_prefix",  # of tokenizers that are no byte-level BPE
        "bos_token_id",
        "cls_token_id",
        "eom_token_id",
        "eos_token_id",
        "eot_token_id",
        "fim_mid_token_id",
        "fim_pad_token_id",
        "fim_pre_token_id",
        "fim_rep_token_id",
        "fim_sep_token_id",
        "fim_suf_token_id",
        "mask_token_id",
        "merges",
        "middle_token_id",
        "model",
        "padding_token_id",
        "pre",
        "prefix_token_id",
        "scores",  # byte-level BPE goes by its merges
        "seperator_token_id",
        "suffix_token_id",
        "token_type",
        "token_type_count",
        "tokens",
        "unknown_token_id",
    }
)
_SENTENCEPIECE = frozenset({"precompiled_charsmap", "remove_extra_whitespaces"})
_TOKENIZER_NEUTRAL: dict[str, tuple[object, ...]] = {
    "add_eos_token": (False,),
    "add_sep_token": (False,),
    "remove_extra_whitespaces": (False,),
}


class Metadata:
    """Typed access to a file's metadata. All getters raise ModelInvalidError, naming the key."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values
        self._asked: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer; the default where the key is missing, an error where there is none either."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong(key, value, "an integer")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number."""
        value = self._value(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _wrong(key, value, "a number")
        return float(value)

    def text(self, key: str, default: str | None = None) -> str:
        """A string."""
        value = self._value(key, default)
        if not isinstance(value, str):
            raise _wrong(key, value, "a string")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """A boolean."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise _wrong(key, value, "a boolean")
        return value

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        value = self._value(key, None)
        if not isinstance(value, list) or not set(map(type, value)) <= {str}:
            raise _wrong(key, value, "a list of strings")
        return value

    def numbers(self, key: str) -> list[float]:
        """A list of finite numbers."""
        value = self._value(key, None)
        if (
            not isinstance(value, np.ndarray)
            or value.ndim != 1
            or value.dtype.kind != "f"
            or not np.isfinite(value).all()
        ):
            raise _wrong(key, value, "a list of numbers")
        found: list[float] = value.tolist()
        return found

    def integers(self, key: str) -> list[int]:
        """A list of integers."""
        value = self._value(key, None)
        if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind not in "iu":
            raise _wrong(key, value, "a list of integers")
        found: list[int] = value.tolist()
        return found

    def is_integer(self, key: str) -> bool:
        """Whether a key is there and holds one integer."""
        return isinstance(self._values.get(key), int) and not isinstance(self._values[key], bool)

    def flags(self, key: str) -> list[bool]:
        """A list of booleans."""
        value = self._value(key, None)
        if not isinstance(value, np.ndarray) or value.ndim != 1 or value.dtype.kind != "b":
            raise _wrong(key, value, "a list of booleans")
        found: list[bool] = value.tolist()
        return found

    def _value(self, key: str, default: object) -> Any:
        self._asked.add(key)
        value = self._values.get(key, default)
        if value is None:
            raise ModelInvalidError(f"the file's metadata has no {key!r}")
        return value

    def check_understood(self, arch: str) -> None:
        """Refuse keys that change what is computed and that were not asked for until now.

        Keys of other names than the architecture's and the tokenizer's describe the file.

        Raises:
            ModelUnsupportedError: naming the key and its value.

        """
        values = self._values.get
        for key, value in self._values.items():
            if key.startswith(f"{arch}."):
                if key not in self._asked:
                    self._check(key, value, key.removeprefix(f"{arch}."), _HARMLESS, _NEUTRAL)
            elif key.startswith("tokenizer.ggml."):
                known = _TOKENIZER if values("tokenizer.ggml.model") in (None, "gpt2") else _TOKENIZER | _SENTENCEPIECE
                self._check(key, value, key.removeprefix("tokenizer.ggml."), known, _TOKENIZER_NEUTRAL)
        kind = self.text("general.type", "model")
        if kind != "model":
            raise ModelUnsupportedError(f"the file is of type {kind!r}, no model")
        if self.integer("split.count", 1) > 1:
            raise ModelUnsupportedError("models in several GGUF files are not supported; join them with gguf-split")

    @staticmethod
    def _check(
        key: str, value: object, name: str, known: frozenset[str], neutral: dict[str, tuple[object, ...]]
    ) -> None:
        plain = isinstance(value, bool | int | float)
        if name not in known and not (plain and value in neutral.get(name, ())):
            raise ModelUnsupportedError(f"metadata {key!r} ({_short(value)}) is not supported")


def _short(value: object) -> str:
    return repr(value)[:80] if isinstance(value, bool | int | float | str) else f"a {type(value).__name__}"


def _wrong(key: str, value: object, wanted: str) -> ModelInvalidError:
    return ModelInvalidError(f"metadata {key!r} is {_short(value)}; must be {wanted}")

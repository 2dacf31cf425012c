"""What MODEL on the command line means. Pure but for a look whether there is such a file."""

import difflib
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from argosy_api.errors import InvalidArgumentError
from argosy_api.model_uri import ModelUri
from argosy_api.rules import MAX_NAME
from argosy_cli.source.catalog import CATALOG

ARGUMENT = "MODEL"
FORMS = "a path, hf://org/repo[:Q4_K_M], package://python_package/file, or a name that `argosy list` has"
_QUANT = re.compile(r"(hf://[^:@]+):([A-Za-z0-9_]{1,32})(@.+)?")
_NO_NAME = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A model that somebody named."""

    given: str
    name: str
    """Fit for a resource."""
    uri: str
    """As in `spec.model.uri`; of a repository whose file has still to be chosen without it."""
    quant: str = ""
    """Of an hf:// repository: in which quantization its GGUF file is wanted."""
    missing: str = ""
    """What to do where the model is not there."""

    @property
    def place(self) -> ModelUri:
        """The URI in its parts."""
        return ModelUri.parse(self.uri)


def understand(text: str) -> Source:
    """What a name, a path or a URI stands for.

    Raises:
        InvalidArgumentError: naming MODEL, and what it can be.

    """
    if entry := CATALOG.get(text):
        return Source(given=text, name=text, uri=entry.uri, missing=entry.missing)
    if "://" in text:
        return _of_uri(text)
    path = Path(text or "/no/name").expanduser()
    if path.suffix in {".yaml", ".yml"}:
        raise InvalidArgumentError(ARGUMENT, f"{text} is a resource, no model; `argosy up {text}` runs it")
    if path.exists():
        return Source(given=text, name=resource_name(path.resolve().name), uri=f"file://{quote(str(path.resolve()))}")
    if path.suffix == ".gguf" or text.startswith(("/", ".", "~")):
        raise InvalidArgumentError(ARGUMENT, f"there is no file or folder {text}")
    if re.fullmatch(r"[\w.-]+/[\w.-]+(:\w+)?", text):
        raise InvalidArgumentError(ARGUMENT, f"{text} is no folder here; of a hub it is hf://{text}")
    close = difflib.get_close_matches(text, CATALOG, n=1, cutoff=0.5)
    meant = f"; did you mean {close[0]}?" if close else ""
    raise InvalidArgumentError(ARGUMENT, f"{text!r} is not known{meant} It can be {FORMS}")


def _of_uri(text: str) -> Source:
    quantized = _QUANT.fullmatch(text)
    bare, quant = (quantized[1] + (quantized[3] or ""), quantized[2]) if quantized else (text, "")
    try:
        uri = ModelUri.parse(bare)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(ARGUMENT, error.problem) from None
    if quant and uri.path:
        raise InvalidArgumentError(ARGUMENT, f"names a file and a quantization, {quant}; give one of them")
    last = (uri.path or uri.place).rstrip("/").rpartition("/")[2]
    return Source(given=text, name=resource_name(last), uri=bare, quant=quant)


def resource_name(text: str) -> str:
    """A name that a resource may have, as near to the text as can be."""
    plain = _NO_NAME.sub("-", text.lower().removesuffix(".gguf")).strip("-")
    if not plain[:1].isalpha():
        plain = f"model-{plain}"
    return plain[:MAX_NAME].strip("-")

"""Where a model comes from: the one grammar of `spec.model.uri`, for the CRD, the plan and the worker alike.

    package://python_package/file    a file inside an installed Python package; the package is not imported
    file:///path                     a file or folder of the worker's machine
    pvc://claim/path                 a file or folder of a PersistentVolumeClaim
    oci://image:tag/path             a file or folder of an image; `:tag`, `@sha256:...` or both
    hf://org/repo@revision           safetensors, configuration and tokenizer of a repository
    hf://org/repo/file.gguf@revision one file of it
    sim://name?option=value&...      the simulated model; its options are the simulation's own business

`%20` and the like stand for characters that a URI cannot hold. Messages repeat of a URI only what can hold no secret:
never the revision and never the options.
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import parse_qsl, quote, unquote

from argosy_api.errors import InvalidArgumentError

Scheme = Literal["package", "file", "pvc", "oci", "hf", "sim"]
MAX_LENGTH = 1024
FORMS = (
    "package://python_package/file, file:///path, pvc://claim/path, oci://image:tag/path, "
    "hf://org/repo@revision, "
    "hf://org/repo/file.gguf@revision or sim://name?options"
)

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_CHAR = r"[^\x00-\x20\x7f]"  # not \S: Python, Rust and Go differ in what they call a space
_CLAIM = r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
# as container runtimes read it: before the first slash is a registry where that has a dot, a port or capitals
_REGISTRY = r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_TAG, _DIGEST = r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", r"@sha256:[0-9a-f]{64}"
# a group for each part; in the syntax that Python's `re` and the API server's RE2 share
_GRAMMAR: dict[Scheme, str] = {
    "package": rf"([A-Za-z_][A-Za-z0-9_]*)/([^\x00-\x20\x7f/]{_CHAR}*)",
    "file": rf"/{_CHAR}*",
    "pvc": rf"({_CLAIM})/([^\x00-\x20\x7f/]{_CHAR}*)",
    "oci": rf"((?:{_REGISTRY}/)?{_COMPONENT}(?:/{_COMPONENT})*)"
    rf"(?:({_TAG}(?:{_DIGEST})?|{_DIGEST})(?:/([^\x00-\x20\x7f/]{_CHAR}*))?)?",
    "hf": rf"({_NAME}/{_NAME})(/({_NAME}/)*{_NAME}\.gguf)?(@[A-Za-z0-9][A-Za-z0-9._/-]*)?",
    "sim": rf"([A-Za-z0-9][A-Za-z0-9._-]*)/?(\?{_CHAR}*)?",
}
PATTERN = "^(" + "|".join(f"{scheme}://{rest}" for scheme, rest in _GRAMMAR.items()) + ")$"
"""For the CRD: what matches it and has no `%00` is what `ModelUri.parse` takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelUri:
    """A checked model URI in its parts. `str()` gives a form that is fit for messages: no revision, no options."""

    scheme: Scheme
    place: str = ""
    """The package, the claim, the image without tag and digest, `org/repo` or the simulation's name; empty for file://."""
    path: str = ""
    """Inside the place, percent-decoded; absolute for file://, empty for the whole of an hf:// repository."""
    revision: str = ""
    """Branch, tag or commit of an hf:// repository, `:tag` and `@digest` of an image; empty: its default."""
    options: tuple[tuple[str, str], ...] = ()
    """Of sim://, in the order in which they were given."""

    @classmethod
    def parse(cls, text: str) -> "ModelUri":
        """Read a URI.

        Raises:
            InvalidArgumentError: field `model.uri`, with the form that is right; the text itself is not repeated.

        """
        scheme, separator, rest = text.partition("://")
        if not separator or scheme not in get_args(Scheme):
            raise InvalidArgumentError("model.uri", f"is no model source; must be {FORMS}")
        known: Scheme = scheme  # type: ignore[assignment]  # it was looked up in the type's own values
        match = re.fullmatch(_GRAMMAR[known], rest)
        if match is None or len(text) > MAX_LENGTH:
            raise InvalidArgumentError("model.uri", f"is no {scheme}:// source; must be {_form(known)}")
        if "\0" in unquote(rest):
            raise InvalidArgumentError("model.uri", "holds a null character")
        match known:
            case "file":
                return cls(scheme=known, path=unquote(rest))
            case "package":
                return cls(scheme=known, place=match[1], path=unquote(match[2]))
            case "pvc":
                return cls(scheme=known, place=match[1], path=unquote(match[3]))
            case "oci":
                return cls(scheme=known, place=match[1], path=unquote(match[3] or ""), revision=match[2] or "")
            case "hf":
                return cls(
                    scheme=known, place=match[1], path=(match[2] or "")[1:], revision=(match[4] or "").removeprefix("@")
                )
            case "sim":
                query = (match[2] or "").removeprefix("?")
                return cls(scheme=known, place=match[1], options=tuple(parse_qsl(query, keep_blank_values=True)))

    @property
    def image(self) -> str:
        """Of oci://, as container runtimes name it."""
        return self.place + self.revision

    @property
    def folder(self) -> str:
        """Name of the folder where that image is mounted: no slash, and no colon, which mount paths may not have."""
        return quote(self.image, safe="")

    def __str__(self) -> str:
        return f"{self.scheme}://{self.place}" + (
            self.path if self.scheme == "file" else f"/{self.path}" if self.path else ""
        )


def _form(scheme: Scheme) -> str:
    return " or ".join(form for form in re.split(r", | or ", FORMS) if form.startswith(scheme))

"""What a model's own files say of it: for `argosy show`. Nothing large is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from argosy_api.memory import kv_token_bytes
from argosy_worker.models.files import read_json
from argosy_worker.models.gguf import GgufFile
from argosy_worker.models.sizing import MAX_CONFIG_BYTES, Header, read_gguf, read_header

_SHOWN = 2000
"""Characters of a template."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Of one model on this machine."""

    architecture: str
    name: str
    parameters: int
    """0: not known without reading the weights."""
    quantization: str
    """In what numbers the files store the matrices."""
    context: int
    layers: int
    hidden: int
    vocabulary: int
    size: int
    """Bytes of the files."""
    kv_token: int
    """Bytes that each token takes in a KV cache of fp16."""
    licence: str
    template: str
    """The beginning of the chat template; empty: it has none."""


def facts_of(path: Path) -> Facts:
    """What a GGUF file or a folder of safetensors says.

    Raises:
        ModelError: it is no model that can be served.

    """
    if path.is_dir():
        return _of_folder(path)
    parameters, metadata = 0, {}
    with GgufFile(path) as found:
        metadata = found.metadata
        parameters = sum(_count(tensor.shape) for tensor in found.tensors.values())
        size = path.stat().st_size
    return _facts(
        read_gguf(path),
        architecture=_text(metadata, "general.architecture"),
        name=_text(metadata, "general.name") or path.stem,
        parameters=parameters,
        size=size,
        licence=_text(metadata, "general.license"),
        template=_text(metadata, "tokenizer.chat_template"),
    )


def _of_folder(folder: Path) -> Facts:
    header = read_header(folder)
    config = read_json(folder / "config.json", MAX_CONFIG_BYTES) if (folder / "config.json").is_file() else {}
    settings = folder / "tokenizer_config.json"
    template = read_json(settings, MAX_CONFIG_BYTES).get("chat_template") if settings.is_file() else ""
    alone = folder / "chat_template.jinja"
    if alone.is_file():
        template = alone.read_text(errors="replace")
    return _facts(
        header,
        architecture=str(config.get("model_type", "")),
        name=folder.name,
        parameters=0,
        size=sum(file.stat().st_size for file in folder.iterdir() if file.is_file()),
        licence=_licence(folder / "README.md"),
        template=template if isinstance(template, str) else "",
    )


def _facts(
    header: Header, *, architecture: str, name: str, parameters: int, size: int, licence: str, template: str
) -> Facts:
    config = header.config
    return Facts(
        architecture=architecture,
        name=name,
        parameters=parameters,
        quantization=header.formats,
        context=config.context_length,
        layers=config.layers,
        hidden=config.hidden,
        vocabulary=config.vocab_size,
        size=size,
        kv_token=kv_token_bytes(layers=config.layers, kv_heads=config.kv_heads, head_dim=config.head_dim, kind="fp16"),
        licence=licence or "not told by its files",
        template=template[:_SHOWN],
    )


def _count(shape: tuple[int, ...]) -> int:
    found = 1
    for length in shape:
        found *= length
    return found


def _text(metadata: dict[str, Any], key: str) -> str:
    value = metadata.get(key, "")
    return value if isinstance(value, str) else ""


def _licence(card: Path) -> str:
    """The `license:` of a model card's head, if there is a card."""
    try:
        with card.open(errors="replace") as file:
            head = file.read(16_384)
    except OSError:
        return ""
    lines = head.split("\n---")[0].splitlines() if head.startswith("---") else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("license:")), "")

"""`argosy serve`: models without a resource file. What it does is `argosy up` with the resource that it prints."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from argosy_api.errors import InvalidArgumentError
from argosy_api.resource import InferenceDeployment, examine
from argosy_cli.embedded import run
from argosy_cli.embedded.assembly import Options
from argosy_cli.embedded.documents import documents
from argosy_cli.embedded.resources import Loaded
from argosy_cli.errors import CommandError
from argosy_cli.source import find, names, resource
from argosy_cli.source.names import Source
from argosy_cli.source.resource import Wish


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What options say of every model that is named."""

    name: str | None = None
    replicas: int = 1
    max_model_len: int | None = None
    weights: str | None = None
    gpu: bool = False


def source_of(model: str) -> Source:
    """What MODEL stands for, down to the file, and that it is there if that can be known without fetching it.

    Raises:
        InvalidArgumentError, ModelError: what it cannot be, and what would be right.

    """
    cache = run.cache(os.environ)
    source = find.chosen(names.understand(model), cache)
    if source.missing and find.here(source.place, cache) is None:
        raise CommandError(f"{model}: is not installed here; get it with: {source.missing}")
    return source


def text_of(sources: Sequence[Source], settings: Settings) -> str:
    """The resource file that these models stand for.

    Raises:
        InvalidArgumentError: two have one name.

    """
    if settings.name is not None and len(sources) > 1:
        raise InvalidArgumentError("--name", "is for one model; several are named by themselves")
    wishes = [
        Wish(
            name=settings.name or source.name,
            uri=source.uri,
            replicas=settings.replicas,
            max_model_len=settings.max_model_len,
            weights=settings.weights,
            gpu=settings.gpu,
        )
        for source in sources
    ]
    twice = [wish.name for i, wish in enumerate(wishes) if wish.name in {w.name for w in wishes[:i]}]
    if twice:
        raise InvalidArgumentError("MODEL", f"two of them would be called {twice[0]}; write a resource file for these")
    return resource.text(wishes)


def loaded_of(text: str) -> list[Loaded]:
    """The resources of a text of ours. Raises InvalidArgumentError for what an option made wrong."""
    loaded = []
    for document in documents(text):
        found = examine(document.content)
        if not isinstance(found, InferenceDeployment):
            raise found[0]
        loaded.append(Loaded(found, "these options", document))
    return loaded


def serve(models: Sequence[str], settings: Settings, options: Options, *, detach: bool, dry_run: bool) -> None:
    """Print the resources, and run them unless `dry_run`.

    Raises:
        ArgosyError: what is wrong and what to do.

    """
    from argosy_cli import up  # noqa: PLC0415 - what runs things

    text = text_of([source_of(model) for model in models], settings)
    loaded = loaded_of(text)
    print(text, end="" if dry_run else "\n", flush=True)
    if dry_run:
        return
    up.up_loaded(loaded, options, detach=detach)

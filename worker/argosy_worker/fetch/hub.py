"""hf:// sources: what is needed of a Hugging Face repository, and nothing that could hold code.

Only safetensors, GGUF, JSON, text and Jinja files are ever asked for; pickles (.bin, .pt, .pth) never are. A download
that broke off goes on where it was. What was once complete is used again when the hub cannot be reached.
"""

import contextlib
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from argosy_api import process
from argosy_api.backoff import Backoff
from argosy_api.errors import ModelDownloadError, ModelError, ModelNotFoundError
from argosy_api.model_uri import ModelUri

log = logging.getLogger(__name__)

DEFAULT_ENDPOINT = "https://huggingface.co"
DEFAULT_REVISION = "main"
ATTEMPTS = 3
RETRY = Backoff(first=1.0, cap=10.0)
"""Between attempts. What still fails is the supervisor's to try again."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WANTED = re.compile(
    r".*\.safetensors|.*\.safetensors\.index\.json|config\.json|generation_config\.json|tokenizer.*\.json|tokenizer\.model"
    r"|special_tokens_map\.json|added_tokens\.json|chat_template\.(jinja|json)|vocab\.json|merges\.txt"
)

Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository and its size in bytes (0 when the hub does not say)."""

    name: str
    size: int


def wanted(files: Sequence[RemoteFile], source: ModelUri) -> list[RemoteFile]:
    """Which of a repository's files are downloaded. Only names at its root that are plain file names count.

    Raises:
        ModelNotFoundError: the repository has not what the source names.

    """
    if source.path:
        found = [f for f in files if f.name == source.path]
        if not found:
            raise ModelNotFoundError(f"{source}: the repository has no {source.path}{_ggufs(files)}")
        return found
    chosen = [f for f in files if _FILE.fullmatch(f.name) and _WANTED.fullmatch(f.name)]
    weights = [f for f in chosen if f.name.endswith(".safetensors")]
    if not weights:
        raise ModelNotFoundError(f"{source}: the repository has no safetensors{_ggufs(files)}")
    named = [f for f in weights if f.name.startswith("model")]
    unwanted = {f.name for f in weights if named and f not in named}  # the same weights again in another layout
    return [f for f in chosen if f.name not in unwanted]


def download(source: ModelUri, *, cache_dir: Path, progress: Progress) -> Path:
    """The GGUF file, or the folder with the safetensors, below `cache_dir`.

    Raises:
        ModelNotFoundError: no such repository, revision or file.
        ModelDownloadError: no network, no space, or no access; says what to do.

    """
    name = f"{source}@{source.revision or DEFAULT_REVISION}".removeprefix("hf://")
    record = cache_dir / "complete" / f"{quote(name, safe='')}.json"
    known = _complete(record, cache_dir)
    if known is not None and _COMMIT.fullmatch(source.revision):
        return known  # a commit never changes
    try:
        return _download(source, cache_dir, record, progress)
    except ModelNotFoundError:
        raise
    except ModelDownloadError as error:
        if known is None:
            raise
        log.warning("%s; using what was downloaded before", error.message)
        return known


def _download(source: ModelUri, cache_dir: Path, record: Path, progress: Progress) -> Path:
    import huggingface_hub  # noqa: PLC0415 - heavy, and only for this kind of source

    endpoint = os.environ.get(process.HF_ENDPOINT) or DEFAULT_ENDPOINT
    # False: never a token that happens to lie in somebody's home folder
    api = huggingface_hub.HfApi(endpoint=endpoint, token=os.environ.get(process.HF_TOKEN) or False)
    progress(f"asking {endpoint} for {source.place}", 0.0)
    info = _attempts(
        source,
        endpoint,
        lambda: api.model_info(source.place, revision=source.revision or DEFAULT_REVISION, files_metadata=True),
    )
    files = wanted([RemoteFile(s.rfilename, s.size or 0) for s in info.siblings or ()], source)
    meter = _Meter(progress, source.place, sum(f.size for f in files))
    paths = []
    for file in files:
        with meter.file(file) as bar:
            path = _attempts(
                source,
                endpoint,
                lambda name=file.name, bar=bar: api.hf_hub_download(  # type: ignore[misc]
                    source.place, name, revision=info.sha, cache_dir=cache_dir / "hub", tqdm_class=bar
                ),
            )
        paths.append(Path(path))
    result = paths[0] if source.path else paths[0].parent
    record.parent.mkdir(parents=True, exist_ok=True)
    fresh = record.with_suffix(f".{os.getpid()}")
    fresh.write_text(json.dumps({"path": str(result.relative_to(cache_dir)), "files": [f.name for f in files]}))
    fresh.replace(record)
    return result


def _attempts(source: ModelUri, endpoint: str, call: Callable[[], Any]) -> Any:
    """Call the hub; what may pass is tried again."""
    attempt = 0
    while True:
        attempt += 1
        try:
            return call()
        except Exception as error:
            problem, passing = _explain(source, endpoint, error)
            if not passing or attempt == ATTEMPTS:
                raise problem from error
            log.warning("%s; attempt %d of %d failed", problem.message, attempt, ATTEMPTS)
            time.sleep(RETRY.delay(attempt))


def _explain(source: ModelUri, endpoint: str, error: Exception) -> tuple[ModelError, bool]:
    """What to tell the user, and whether another attempt may help."""
    from huggingface_hub import errors  # noqa: PLC0415 - as above

    token = os.environ.get(process.HF_TOKEN)
    give_token = "give a token that may read it (spec.model.tokenSecretRef; HF_TOKEN)"  # noqa: S105 - a sentence
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        return ModelDownloadError(f"{source}: is gated: accept its terms on its page, then {give_token}"), False
    if isinstance(error, errors.RevisionNotFoundError):
        return ModelNotFoundError(f"{source}: the repository has no such revision"), False
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return ModelNotFoundError(f"{source}: the repository has no such file"), False
    if status in (401, 403):
        what = (
            "the token was refused; it is wrong or may not read this"
            if token
            else f"does not exist or is private; {give_token}"
        )
        return ModelDownloadError(f"{source}: {what}"), False
    if isinstance(error, errors.RepositoryNotFoundError) or status == 404:
        hint = "" if token else f"; if it is private, {give_token}"
        return ModelNotFoundError(f"{source}: {endpoint} has no such repository{hint}"), False
    if status is not None:
        return ModelDownloadError(f"{source}: {endpoint} answered HTTP {status}"), status >= 500 or status == 429
    if isinstance(error, OSError) and error.errno is not None:
        return ModelDownloadError(f"{source}: cannot be stored: {error.strerror}"), False
    reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return ModelDownloadError(
        f"{source}: {endpoint} cannot be reached ({reason}); check the network and HF_ENDPOINT"
    ), True


class _Meter:
    """Bytes of several files as one progress."""

    def __init__(self, progress: Progress, repo: str, total: int) -> None:
        self._progress = progress
        self._repo = repo
        self._total = total
        self._done = 0

    @contextlib.contextmanager
    def file(self, file: RemoteFile) -> Iterator[type]:
        """A progress bar class for the client library, which it may make several times (resumed downloads)."""
        from tqdm import tqdm  # type: ignore[import-untyped]  # noqa: PLC0415 - comes with huggingface_hub

        meter, before = self, self._done

        class Bar(tqdm):  # type: ignore[misc]
            def __init__(self, *args: Any, initial: int = 0, **kwargs: Any) -> None:
                kwargs.pop("name", None)
                super().__init__(*args, **{**kwargs, "disable": True})
                self._argosy_done = initial

            def update(self, n: float | None = 1) -> None:
                self._argosy_done += int(n or 0)
                meter.report(before + self._argosy_done)

        yield Bar
        self._done = before + file.size
        self.report(self._done)

    def report(self, done: int) -> None:
        share = min(1.0, done / self._total) if self._total else 0.0
        self._progress(f"downloading {self._repo} ({done / 1e6:.0f} of {self._total / 1e6:.0f} MB)", share)


def _complete(record: Path, cache_dir: Path) -> Path | None:
    """What was downloaded completely before, if all of it is still there."""
    try:
        document = json.loads(record.read_text())
        path = cache_dir / document["path"]
        folder = path.parent if path.is_file() else path
        names = [PurePosixPath(name).name for name in document["files"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return path if path.exists() and all((folder / name).is_file() for name in names) else None


def _ggufs(files: Sequence[RemoteFile]) -> str:
    names = sorted(f.name for f in files if f.name.endswith(".gguf"))
    return f"; its GGUF files: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}" if names else ""

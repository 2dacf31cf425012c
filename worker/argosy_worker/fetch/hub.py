"""hf:// sources: what is needed of a Hugging Face repository, and nothing that could hold code.

Only safetensors, GGUF, JSON, text and Jinja files are ever asked for; pickles (.bin, .pt, .pth) never are. Of workers
that share a cache one downloads a model at a time, and the others find it there. A download that broke off goes on
where it was (`download`), and each file's checksum is held against the hub's. The layout is that of the hub's own
client. What was once complete is used again when the hub cannot be reached.
"""

import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from argosy_api import process
from argosy_api.backoff import Backoff
from argosy_api.errors import ModelDownloadError, ModelError, ModelNotFoundError
from argosy_api.model_uri import ModelUri
from argosy_worker.fetch import borrowed, cached
from argosy_worker.fetch import download as http
from argosy_worker.fetch.cached import DEFAULT_REVISION
from argosy_worker.fetch.meter import Meter, Progress
from argosy_worker.fetch.turns import turn

log = logging.getLogger(__name__)

DEFAULT_ENDPOINT = "https://huggingface.co"
ATTEMPTS = 3
RETRY = Backoff(first=1.0, cap=10.0)
"""Between attempts. What still fails is the supervisor's to try again."""
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WANTED = re.compile(
    r".*\.safetensors|.*\.safetensors\.index\.json|config\.json|generation_config\.json|tokenizer.*\.json|tokenizer\.model"
    r"|special_tokens_map\.json|added_tokens\.json|chat_template\.(jinja|json)|vocab\.json|merges\.txt"
)

_POOLING = ("modules.json", "1_Pooling/config.json")
"""How a model's hidden states become embeddings."""
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository and its size in bytes (0 when the hub does not say)."""

    name: str
    size: int
    digest: str = ""
    """SHA-256 of large files, git's SHA-1 of small ones; empty when the hub does not say."""


Choose = Callable[[Sequence[RemoteFile], ModelUri], list[RemoteFile]]


def wanted(files: Sequence[RemoteFile], source: ModelUri) -> list[RemoteFile]:
    """Which of a repository's files are downloaded. Only names at its root that are plain file names count, and the
    one below it that says how embeddings are made.

    Raises:
        ModelNotFoundError: the repository has not what the source names.

    """
    if source.path:
        found = [f for f in files if f.name == source.path]
        if not found:
            raise ModelNotFoundError(f"{source}: the repository has no {source.path}{_ggufs(files)}")
        return found
    chosen = [f for f in files if (_FILE.fullmatch(f.name) and _WANTED.fullmatch(f.name)) or f.name in _POOLING]
    weights = [f for f in chosen if f.name.endswith(".safetensors")]
    if not weights:
        raise ModelNotFoundError(f"{source}: the repository has no safetensors{_ggufs(files)}")
    named = [f for f in weights if f.name.startswith("model")]
    unwanted = {f.name for f in weights if named and f not in named}  # the same weights again in another layout
    return [f for f in chosen if f.name not in unwanted]


def wanted_adapter(files: Sequence[RemoteFile], source: ModelUri) -> list[RemoteFile]:
    """The two files of an adapter, at the root of its repository. Raises ModelNotFoundError."""
    found = [f for f in files if f.name in _ADAPTER]
    if source.path or len(found) < len(_ADAPTER):
        raise ModelNotFoundError(f"{source}: an adapter's repository has {' and '.join(_ADAPTER)} at its root")
    return found


def download(
    source: ModelUri,
    *,
    cache_dir: Path,
    progress: Progress,
    adapter: bool = False,
    moved: Callable[[int, int], None] = lambda _done, _total: None,
) -> Path:
    """The GGUF file, or the folder with the safetensors, below `cache_dir`. `moved` hears of bytes, also of how many.

    Raises:
        ModelNotFoundError: no such repository, revision or file.
        ModelDownloadError: no network, no space, or no access; says what to do.

    """
    choose = wanted_adapter if adapter else wanted
    record = cached.record_of(source, cache_dir, adapter=adapter)
    known = cached.known(record, cache_dir)
    if known is not None and _COMMIT.fullmatch(source.revision):
        return known  # a commit never changes
    try:
        return _download(source, cache_dir, record, choose, progress=progress, moved=moved)
    except ModelNotFoundError:
        raise
    except ModelDownloadError as error:
        if known is None:
            raise
        log.warning("%s; using what was downloaded before", error.message)
        return known


def names(source: ModelUri) -> list[str]:
    """Paths of all files that a repository has. Raises as `download`."""
    return [sibling.rfilename for sibling in _ask(source).siblings or ()]


def _ask(source: ModelUri) -> Any:
    """What the hub says of a repository."""
    import huggingface_hub  # noqa: PLC0415 - heavy, and only for this kind of source

    # False: never a token that happens to lie in somebody's home folder
    api = huggingface_hub.HfApi(endpoint=_endpoint(), token=os.environ.get(process.HF_TOKEN) or False)
    revision = source.revision or DEFAULT_REVISION
    return _attempts(source, _endpoint(), lambda: api.model_info(source.place, revision=revision, files_metadata=True))


def _endpoint() -> str:
    return os.environ.get(process.HF_ENDPOINT) or DEFAULT_ENDPOINT


def _download(
    source: ModelUri,
    cache_dir: Path,
    record: Path,
    choose: Choose,
    *,
    progress: Progress,
    moved: Callable[[int, int], None],
) -> Path:
    endpoint, token = _endpoint(), os.environ.get(process.HF_TOKEN)
    progress(f"asking {endpoint} for {source.place}", 0.0)
    info = _ask(source)
    files = choose([_remote(s) for s in info.siblings or ()], source)
    commit = str(info.sha)
    meter = Meter(progress, source.place, sum(f.size for f in files), moved)
    home = cache_dir / "hub" / f"models--{source.place.replace('/', '--')}"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with (
        turn(home / ".lock", meter.wait),
        # to hosts that the hub redirects to the client sends no Authorization
        httpx.Client(headers=headers, timeout=http.TIMEOUT, follow_redirects=True) as client,
    ):
        for file in files:
            url = f"{endpoint.rstrip('/')}/{source.place}/resolve/{quote(commit, safe='')}/{quote(file.name)}"
            remote = http.Remote(url, file.size, file.digest)
            place = _Place.of(home, commit, file)
            meter.begin(place.there)
            _attempts(
                source,
                endpoint,
                lambda remote=remote, place=place: place.fill(client, remote, meter.report),  # type: ignore[misc]
                lambda: meter.done,
            )
            meter.next(file.size)
    folder = home / "snapshots" / commit
    result = folder / source.path if source.path else folder
    cached.write(record, cache_dir, result, [f.name for f in files])
    return result


def _remote(sibling: Any) -> RemoteFile:
    large = getattr(sibling, "lfs", None)
    digest = str(large.sha256 if large is not None else sibling.blob_id or "")
    return RemoteFile(sibling.rfilename, sibling.size or 0, digest if _DIGEST.fullmatch(digest) else "")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a file of a commit is: a link to what is kept under the name of its content, once for all commits."""

    link: Path
    blob: Path

    @classmethod
    def of(cls, home: Path, commit: str, file: RemoteFile) -> "_Place":
        blob = file.digest or f"{commit}-{quote(file.name, safe='')}"
        return cls(home / "snapshots" / commit / file.name, home / "blobs" / blob)

    @property
    def there(self) -> int:
        """Bytes of it that are here already."""
        partial = self.blob.with_name(self.blob.name + http.PARTIAL)
        return next((path.stat().st_size for path in (self.link, self.blob, partial) if path.exists()), 0)

    def fill(self, client: httpx.Client, remote: http.Remote, progress: Callable[[int], None]) -> None:
        """See that the file is there."""
        if self.link.exists():
            return
        for path in (self.blob, self.link):
            path.parent.mkdir(parents=True, exist_ok=True)
        if not self.blob.exists() and not borrowed.take(self.blob, remote.digest):
            http.get(client, remote, self.blob, progress)
        if self.link.is_symlink() and not self.link.exists():
            self.link.unlink()  # it leads nowhere
        try:
            self.link.symlink_to(os.path.relpath(self.blob, self.link.parent))
        except FileExistsError:  # another one was faster
            pass
        except OSError:  # a file system without links
            self.blob.replace(self.link)


def _attempts(source: ModelUri, endpoint: str, call: Callable[[], Any], moved: Callable[[], int] = int) -> Any:
    """Call the hub; what may pass is tried again, and as often as something of it comes."""
    attempt, before = 0, moved()
    while True:
        attempt += 1
        try:
            return call()
        except Exception as error:
            problem, passing = _explain(source, endpoint, error)
            if (now := moved()) > before:
                attempt, before = 1, now
            if not passing or attempt == ATTEMPTS:
                raise problem from error
            log.warning("%s; attempt %d of %d failed", problem.message, attempt, ATTEMPTS)
            time.sleep(RETRY.delay(attempt))


def _explain(source: ModelUri, endpoint: str, error: Exception) -> tuple[ModelError, bool]:
    """What to tell the user, and whether another attempt may help."""
    from huggingface_hub import errors  # noqa: PLC0415 - as above

    if isinstance(error, http.DamagedError):
        return ModelDownloadError(f"{source}: {error.message}"), True
    token = os.environ.get(process.HF_TOKEN)
    give_token = "give a token that may read it (spec.model.tokenSecretRef; HF_TOKEN)"  # noqa: S105 - a sentence
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if response is not None and response.headers.get("X-Error-Code") == "GatedRepo":
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


def _ggufs(files: Sequence[RemoteFile]) -> str:
    names = sorted(f.name for f in files if f.name.endswith(".gguf"))
    return f"; its GGUF files: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}" if names else ""

"""Files that the hub's own client has downloaded on this machine already: they are not downloaded again.

Its cache has ours' layout, and both name a file by its checksum. It is held against the file all the same: what another
program keeps is not ours to trust.
"""

import contextlib
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from argosy_worker.fetch.download import digest_of


def cache_of_the_hub(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the hub's own client keeps repositories, by the variables that it heeds."""
    if chosen := environment.get("HF_HUB_CACHE"):
        return Path(chosen)
    home = environment.get("HF_HOME")
    caches = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(home) if home else caches / "huggingface") / "hub"


def take(blob: Path, digest: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Make `blob` (`.../models--org--repo/blobs/DIGEST`) from the other cache, if that has it whole."""
    if not digest:
        return False
    other = cache_of_the_hub(environment) / blob.parent.parent.name / "blobs" / digest
    try:
        if not other.is_file() or other.resolve() == blob.resolve() or digest_of(other, digest) != digest:
            return False
        try:
            os.link(other.resolve(), blob)
        except OSError:  # another file system
            fresh = blob.with_name(f"{blob.name}.{uuid.uuid4().hex}")
            try:
                shutil.copyfile(other, fresh)
                fresh.replace(blob)
            finally:
                with contextlib.suppress(OSError):
                    fresh.unlink()
    except OSError:
        return False
    return True

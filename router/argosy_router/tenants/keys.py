"""API keys. Pure: the caller reads the files."""

import hmac
from collections.abc import Mapping

from argosy_api.access import KeyEntry, digest, parse_entry, split_key
from argosy_api.errors import InvalidArgumentError

_NONE = KeyEntry("-", "0" * 64)


class KeyBook:
    """All keys, by id."""

    def __init__(self, entries: Mapping[str, KeyEntry]) -> None:
        self._entries = dict(entries)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: str) -> KeyEntry | None:
        """Whose the key is; None: nobody's. Takes as long for a wrong secret as for the right one."""
        parts = split_key(key)
        if parts is None:
            return None
        entry = self._entries.get(parts[0], _NONE)
        same = hmac.compare_digest(digest(*parts), entry.sha256)
        return entry if same and entry is not _NONE else None


def read(files: Mapping[str, str]) -> tuple[KeyBook, list[str]]:
    """The keys of a directory's files, and what is wrong with others of them, which count for nothing."""
    entries, wrong = {}, []
    for name, text in files.items():
        try:
            entries[name] = parse_entry(text)
        except InvalidArgumentError as error:
            wrong.append(f"{name}: {error.message}")
    return KeyBook(entries), wrong

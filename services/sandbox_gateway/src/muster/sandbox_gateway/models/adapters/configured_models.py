"""The models of `models.toml`, which is read again when it has changed, so that a new entry needs no restart."""

from collections.abc import Mapping
from pathlib import Path

import structlog

from muster.common.faults import InvalidMessage
from muster.common.model_entries import ModelEntry, key_of, read_entries

log = structlog.get_logger()


class ConfiguredModels:
    """The entries of `models.toml`, and those that the environment of the gateway describes (`fixed`).

    While the changed file cannot be read, the entries before the change are used.
    """

    def __init__(self, path: Path, env: Mapping[str, str], fixed: Mapping[str, ModelEntry] | None = None) -> None:
        self._path, self._env, self._fixed = path, env, dict(fixed or {})
        self._version: tuple[int, int, int] | None = None
        self._entries: dict[str, ModelEntry] = {}

    def get(self, model: str) -> ModelEntry | None:
        """Return the entry with this name, or None. Raises `InvalidMessage` if the file cannot be read."""
        if "/" in model:
            return None  # The name of an entry contains no slash, so hosted models work without a readable file.
        return self._read().get(model) or self._fixed.get(model)

    def key(self, entry: ModelEntry) -> str:
        """Return the key of an entry; an empty string if it needs none. Raises `InvalidMessage` without the key."""
        return key_of(entry, self._path, self._env)

    def _read(self) -> dict[str, ModelEntry]:
        version = self._stat()
        if version == self._version:
            return self._entries
        being_written = version is not None and version[1] == 0
        try:
            entries = self._entries if being_written else read_entries(self._path)
        except InvalidMessage as error:
            if not self._entries:
                raise
            # Running tasks must not fail because of an error in an entry that they do not use.
            log.warning("models file cannot be read, the entries before the change are used", error=str(error))
            entries = self._entries
        self._entries, self._version = entries, version
        return entries

    def _stat(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            self._entries = {}
            return None
        except OSError as error:
            raise InvalidMessage(f"{self._path} cannot be read: {error.strerror}") from None
        return found.st_ino, found.st_size, found.st_mtime_ns

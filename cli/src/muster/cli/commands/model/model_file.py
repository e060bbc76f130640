"""Writes `models.toml` and the files with keys next to it.

Each change reads the file and writes it again under a lock, so that two changes at the same time lose nothing. The file
is replaced atomically, because a running gateway may read it at any time. Comments in the file are kept where possible.
"""

import fcntl
import os
import re
import sys
import tomllib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from muster.cli.client.target import data_directory
from muster.cli.console.output import Exit, fail
from muster.common.configuration_file import ConfigurationError
from muster.common.described_model import described_entries
from muster.common.faults import InvalidMessage
from muster.common.model_entries import ModelEntry, models_file, read_entries

KEYS_FOLDER = "model-keys"
_NEXT_TABLE = re.compile(r"^\s*\[", re.MULTILINE)


class ModelFile:
    """The file `models.toml` of a data directory."""

    def __init__(self, path: Path, data_dir: Path) -> None:
        self.path, self.data_dir = path, data_dir

    @classmethod
    def find(cls, data: Path | None) -> "ModelFile":
        """Return the file that `--data`, `MUSTER_DATA_DIR` or `MUSTER_MODELS_FILE` selects. The file may be missing."""
        data_dir = data_directory(data)
        try:
            return cls(models_file(os.environ, data_dir), data_dir)
        except ConfigurationError as error:
            fail(str(error), Exit.USAGE)

    def entries(self) -> dict[str, ModelEntry]:
        """Return the stored entries by name; end the command if the file cannot be read."""
        try:
            return read_entries(self.path)
        except InvalidMessage as error:
            fail(f"{error}. Correct the file.", Exit.USAGE)

    def usable(self) -> dict[str, ModelEntry]:
        """Return the stored entries, and the model that variables such as LLM_BASE_URL describe."""
        try:
            return {**described_entries(os.environ), **self.entries()}
        except InvalidMessage as error:
            fail(str(error), Exit.USAGE)

    def store(self, name: str, entry: ModelEntry, key: str | None, *, replace: bool) -> None:
        """Store an entry, and its key in the file `entry.key_file` if `key` is not None.

        Ends the command if another process has stored the name meanwhile and `replace` is not set.
        """
        with self._changing() as entries:
            old = entries.get(name)
            if old and not replace:
                fail_existing(name, self.path)
            if old and old.key_file and key is not None and old.address != entry.address:
                # A gateway that reads the file now must not send the new key to the old address.
                self._write(_without(self._text(), name))
            if key is not None and entry.key_file:
                self._write_key(self.path.parent / entry.key_file, key)
            self._write(_with(self._text(), name, entry))
            if old and old.key_file and old.key_file != entry.key_file:
                self._delete_key(old)

    def remove(self, name: str) -> ModelEntry | None:
        """Remove an entry with its stored key, and return the entry; None if there is no such entry."""
        with self._changing() as entries:
            if old := entries.get(name):
                self._write(_without(self._text(), name))
                self._delete_key(old)
            return old

    @contextmanager
    def _changing(self) -> Generator[dict[str, ModelEntry]]:
        """Lock the file, and yield its entries. The lock is a file of its own, because `models.toml` is replaced."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path.parent / f".{self.path.name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield self.entries()
            finally:
                os.close(descriptor)
        except OSError as error:
            fail(f"{self.path} cannot be changed: {error.strerror}. Check the permissions of {self.path.parent}.")

    def _text(self) -> str:
        return self.path.read_text() if self.path.exists() else ""

    def _write(self, text: str) -> None:
        from muster.embedded.private_files import write_private

        write_private(self.path, text.encode())

    def _write_key(self, path: Path, key: str) -> None:
        from muster.embedded.private_files import write_private

        path.parent.mkdir(exist_ok=True, mode=0o700)
        path.parent.chmod(0o700)
        write_private(path, key.encode() + b"\n")

    def _delete_key(self, entry: ModelEntry) -> None:
        """Delete the key file of an entry, but only a file that `muster model add` has written."""
        path = self.path.parent / (entry.key_file or "")
        if entry.key_file and path.parent == self.path.parent / KEYS_FOLDER:
            path.unlink(missing_ok=True)


def fail_existing(name: str, path: Path) -> None:
    """End the command, because the model exists."""
    fail(f"the model {name} exists in {path}: `--replace` replaces it, or choose another name", Exit.CONFLICT)


def read_key() -> str:
    """Return the first line of stdin; on a terminal ask for it without echo. End the command if it is no key."""
    import click

    from muster.cli.console.prompts import ask_user
    from muster.common.secret_files import MAX_SECRET_BYTES

    if sys.stdin.isatty():
        line = ask_user(lambda: str(click.prompt("Key", hide_input=True, err=True)))
    else:
        line = sys.stdin.readline(MAX_SECRET_BYTES + 1)
    key = line.strip()
    if not key:
        fail("--key-stdin: stdin contains no key. Pass the key in the first line", Exit.USAGE)
    if not (key.isascii() and key.isprintable()) or " " in key or len(key) > MAX_SECRET_BYTES:
        fail("--key-stdin: the first line is not a key: write one word of printable ASCII", Exit.USAGE)
    return key


def _tables(text: str) -> dict[str, Any]:
    return tomllib.loads(text).get("models", {})


def _with(text: str, name: str, entry: ModelEntry) -> str:
    table = {field: value for field, value in msgspec.to_builtins(entry).items() if value is not None}
    expected = {**_tables(text), name: table}
    before = _cut(text, name).rstrip("\n")
    return _checked(f"{before}\n\n{_dump({name: table})}".lstrip("\n"), expected)


def _without(text: str, name: str) -> str:
    return _checked(_cut(text, name), {other: table for other, table in _tables(text).items() if other != name})


def _cut(text: str, name: str) -> str:
    """Return the text without the table of a model, from its head to its last key."""
    head = _dump({name: {"kind": ""}}).splitlines()[0]
    lines = text.splitlines(keepends=True)
    start = next((at for at, line in enumerate(lines) if line.strip() == head), None)
    if start is None:
        return text
    end = next((at for at in range(start + 1, len(lines)) if _NEXT_TABLE.match(lines[at])), len(lines))
    while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1  # A comment above the next table describes the next table.
    return "".join(lines[:start] + lines[end:])


def _checked(text: str, expected: Mapping[str, Any]) -> str:
    """Return the edited text if it contains exactly the expected tables; otherwise a new text without comments."""
    try:
        if _tables(text) == expected:
            return text
    except tomllib.TOMLDecodeError:
        pass
    return _dump(expected)


def _dump(tables: Mapping[str, Any]) -> str:
    import tomli_w

    return tomli_w.dumps({"models": tables})

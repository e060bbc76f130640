"""Reads TOML files with entries that an operator writes: `models.toml` and `git.toml`.

Such a file contains no secrets. An entry names the variable or the file that contains its secret.
"""

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from muster.common.contract import Message
from muster.common.faults import InvalidMessage
from muster.common.secret_files import secret_line

MAX_BYTES = 1 << 20


def read_entry_file[T: Message](path: Path, shape: type[T]) -> T | None:
    """Return the content of a file, or None if it does not exist. Raises `InvalidMessage` with a sentence."""
    try:
        with path.open("rb") as file:
            body = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidMessage(f"{path} cannot be read: {error.strerror}") from None
    if len(body) > MAX_BYTES:
        raise InvalidMessage(f"{path} has more than {MAX_BYTES >> 20} MiB; remove entries")
    try:
        return msgspec.convert(tomllib.loads(body.decode("utf-8-sig")), shape)
    except (ValueError, RecursionError) as error:  # `TOMLDecodeError` and `ValidationError` are `ValueError`s.
        raise InvalidMessage(f"{path} cannot be read: {error}") from None


def checked_entry[T: Message](
    path: Path, title: str, table: dict[str, Any], kind: type[T], check: Callable[[T], None]
) -> T:
    """Return one entry of a file. Raises `InvalidMessage` with the file, the entry's title and the wrong field."""
    try:
        entry = msgspec.convert(table, kind)
        check(entry)
    except (msgspec.ValidationError, InvalidMessage) as error:
        fault = error if isinstance(error, InvalidMessage) else InvalidMessage.at(error, kind)
        raise InvalidMessage(f"{path}: {title} {fault}", field=fault.field) from None
    return entry


def named_secret(
    path: Path,
    env: Mapping[str, str],
    *,
    variable: str | None,
    file: str | None,
    what: str,
    if_empty: str,
    field: str,
) -> str:
    """Return the secret of an entry of the file `path`; an empty string if the entry names none.

    `file` is relative to the folder of `path`. Raises `InvalidMessage` with `field` if the variable is not set or the
    file cannot be used; `what` names the secret, and `if_empty` is the sentence for an empty file. The error never
    contains the secret.
    """
    if variable:
        if secret := env.get(variable, "").strip():
            return secret
        raise InvalidMessage(f"set {variable} where the stack is started: it contains {what}", field=field)
    if file:
        if secret := secret_line(path.parent / file, field=field):
            return secret
        raise InvalidMessage(if_empty, field=field)
    return ""

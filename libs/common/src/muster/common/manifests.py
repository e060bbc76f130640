"""Finds agent packages on disk and reads their `agent.toml`. Imports no heavy module."""

import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from muster.common.contracts.packages import Capability, Manifest, Resources
from muster.common.contracts.task_spec import Network
from muster.common.faults import InvalidMessage
from muster.common.host_rules import rules_of
from muster.common.worker_variables import refuse_variables

FILE = "agent.toml"
SKIPPED = frozenset({"__pycache__", "_template", "test"})
MAX_BYTES = 64 << 10
MOST_CONTENT_BYTES = 64 << 20
LONGEST_GRACE_S = 300.0

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_CAPABILITY = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_VERSION = re.compile(r"[0-9][0-9A-Za-z.+-]{0,63}")
_MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def package_folders(roots: Sequence[Path]) -> list[Path]:
    """Return every folder directly below a root that contains an `agent.toml`, once, sorted by name.

    A root that does not exist contains none.
    """
    found = {
        folder.resolve(): None
        for root in roots
        if root.is_dir()
        for folder in sorted(root.iterdir())
        if folder.name not in SKIPPED and not folder.name.startswith(".") and (folder / FILE).is_file()
    }
    return sorted(found, key=lambda folder: (folder.name, folder))


def read_manifest(folder: Path) -> Manifest:
    """Read and check the `agent.toml` of a package.

    Raises `InvalidMessage` with the wrong field and a sentence for the package's author.
    """
    manifest = _converted(_table(folder / FILE))
    _check_words(manifest)
    _check_capabilities(manifest.capabilities)
    _check_numbers(manifest)
    _check_modules(folder, manifest.module, manifest.preload)
    _check_sandbox(manifest)
    return manifest


def import_root(folder: Path, manifest: Manifest) -> Path:
    """Return the folder that must be on `PYTHONPATH` so that `python -m <module>` finds the package."""
    return folder.resolve().parents[manifest.module.count(".")]


def digest(folder: Path) -> str:
    """Return a digest of the names and bytes of all files in a folder, except caches and hidden files.

    Raises `InvalidMessage` if the folder is larger than `MOST_CONTENT_BYTES`.
    """
    summed, left = hashlib.sha256(), MOST_CONTENT_BYTES
    for path in sorted(_files(folder)):
        name = os.fsencode(path.relative_to(folder))
        content = _content(path, left)
        if content is None:
            continue
        left -= len(content)
        if left < 0:
            raise InvalidMessage(
                f"the folder contains more than {MOST_CONTENT_BYTES >> 20} MiB; keep only code in a package"
            )
        summed.update(b"%d %s %d " % (len(name), name, len(content)))
        summed.update(content)
    return summed.hexdigest()


def _content(path: Path, most: int) -> bytes | None:
    """Return up to `most` + 1 bytes of a file.

    Returns None if it was deleted or is no regular file (a pipe never ends).
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            return file.read(most + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else None
    except OSError:  # The file was deleted or cannot be read. The next scan of the package tries again.
        return None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _files(folder: Path) -> Iterable[Path]:
    for place, folders, names in folder.walk():
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        yield from (place / name for name in names if not name.endswith(".pyc") and not name.startswith("."))


def _table(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            body = file.read(MAX_BYTES + 1)
        if len(body) > MAX_BYTES:
            raise _wrong("$", f"has more than {MAX_BYTES >> 10} KiB; it is a manifest, not a store")
        return tomllib.loads(body.decode())
    except FileNotFoundError:
        raise _wrong("$", "is missing; every package has one") from None
    except OSError as error:
        raise _wrong("$", f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _wrong("$", "is not UTF-8") from None
    # `TOMLDecodeError` is a `ValueError`, and so is the error for a number with too many digits.
    except ValueError as error:
        raise _wrong("$", f"is not TOML: {error}") from None
    except RecursionError:
        raise _wrong("$", "is not TOML that anyone means: it is nested too deep") from None


def _converted(table: dict[str, Any]) -> Manifest:
    _known("$", table, Manifest)
    _known("$.resources", table.get("resources"), Resources)
    _known("$.network", table.get("network"), Network)
    capabilities: object = table.get("capabilities")
    if isinstance(capabilities, list):
        for index, capability in enumerate(cast("list[object]", capabilities)):
            _known(f"$.capabilities[{index}]", capability, Capability)
    try:
        return msgspec.convert(table, Manifest)
    except msgspec.ValidationError as error:
        fault = InvalidMessage.at(error, Manifest)
        raise InvalidMessage(f"{FILE}: {fault}", field=fault.field) from None


def _known(where: str, table: object, struct: type[msgspec.Struct]) -> None:
    """Refuse unknown fields, because a misspelt field would silently get its default."""
    if isinstance(table, dict):
        for key in cast("dict[str, object]", table):
            if key not in struct.__struct_fields__:
                known = ", ".join(struct.__struct_fields__)
                raise _wrong(f"{where}.{key}", f"is not a field; there are {known}")


def _check_words(manifest: Manifest) -> None:
    if not _NAME.fullmatch(manifest.name):
        raise _wrong("$.name", "must be 1 to 64 of a-z 0-9 _, beginning with a letter")
    if not _NAME.fullmatch(manifest.type):
        raise _wrong("$.type", "must be 1 to 64 of a-z 0-9 _, beginning with a letter")
    if not _VERSION.fullmatch(manifest.version):
        raise _wrong("$.version", 'must be a version such as "0.1.0"')
    if not manifest.modes or len(set(manifest.modes)) < len(manifest.modes):
        raise _wrong("$.modes", 'must name "process", "sandbox" or both, each once')


def _check_capabilities(capabilities: Sequence[Capability]) -> None:
    seen = set[str]()
    for index, capability in enumerate(capabilities):
        where = f"$.capabilities[{index}]"
        if not _CAPABILITY.fullmatch(capability.name) or capability.name in seen:
            raise _wrong(f"{where}.name", "must be 1 to 64 of a-z 0-9 _ - ., beginning with a letter, and said once")
        if capability.config and capability.config.get("type") != "object":
            raise _wrong(f"{where}.config", 'must be the JSON Schema of an object: type = "object"')
        seen.add(capability.name)


def _check_numbers(manifest: Manifest) -> None:
    if not 0 <= manifest.graceful_stop_s <= LONGEST_GRACE_S:
        raise _wrong("$.graceful_stop_s", f"must be 0 to {LONGEST_GRACE_S:g} seconds")
    limits = manifest.resources
    for name in limits.__struct_fields__:
        if (value := getattr(limits, name)) is not None and value <= 0:
            raise _wrong(f"$.resources.{name}", "must be more than 0; leave it out for the default")


def _check_sandbox(manifest: Manifest) -> None:
    try:
        refuse_variables(manifest.env)
        rules_of(tuple(manifest.network.hosts if manifest.network else ()))
    except InvalidMessage as error:
        raise InvalidMessage(
            f"{FILE}: {error}", field="$.network.hosts" if error.field == "$.hosts" else error.field
        ) from None


def _check_modules(folder: Path, module: str, preload: Sequence[str]) -> None:
    if not _MODULE.fullmatch(module):
        raise _wrong("$.module", f'is started as `python -m`: a dotted name such as "{folder.name}"')
    parts = module.split(".")
    if list(folder.resolve().parts[-len(parts) :]) != parts:
        raise _wrong("$.module", f"is {module}, which is not this folder; its last part is {folder.resolve().name}")
    for index, name in enumerate(preload):
        if not _MODULE.fullmatch(name):
            raise _wrong(f"$.preload[{index}]", f'must be the dotted name of a module, such as "{module}.agent"')
    if not (folder / "__main__.py").is_file():
        raise _wrong("$.module", f"cannot be started: {folder.name} has no __main__.py")


def _wrong(field: str, why: str) -> InvalidMessage:
    place = f"{FILE}: {field.removeprefix('$.')}" if field != "$" else FILE
    return InvalidMessage(f"{place} {why}", field=field)

"""Copies the instructions for agents that a repository contains: AGENTS.md and its like, and skills.

The copies come from git's objects at the commit that the worker started from. So no file of the working tree is opened:
a device, a pipe or a link out of the repository has no effect. A symbolic link is copied as a link if its target is
in the repository too. The copy is made once per conversation, so that a relaunch reads the same instructions, even if
the agent has changed the files since.
"""

import logging
import os
import posixpath
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

MOST_FILES = 300
MOST_LINKS = 50
LONGEST_FILE = 64 << 10
"""Bytes of one file that the agent reads. The rest of a longer file is cut off, and the text says so."""
_LONGEST_BLOB = 1 << 20
"""Bytes of a longer file are not read at all."""
MOST_BYTES = 512 << 10
"""Bytes of all files together. Further files are left out."""
_MOST_LISTED = 10_000
"""Tracked files that are looked at."""
_DEADLINE_S = 30.0
_INSTRUCTIONS = ("agents.md", "agent.md", "claude.md", "gemini.md", ".cursorrules")
_SKILLS = (".agents/skills", ".openhands/skills", ".openhands/microagents")
_PATTERNS = [
    *(f":(icase,glob)**/{name}" for name in _INSTRUCTIONS),
    *(f":(glob){folder}{below}" for folder in _SKILLS for below in ("", "/**")),
]
_LINK, _FILE = "120000", {"100644", "100755"}

logger = logging.getLogger(__name__)


class TrackedFile(msgspec.Struct, frozen=True):
    """A file that git tracks: its mode, object id and path in the repository."""

    mode: str
    oid: str
    path: str


def copy_instructions(repository: Path, target: Path) -> Path | None:
    """Copy the instructions into the folder `target`; return the folder, or None if the repository has none.

    A folder that exists already is the copy of an earlier launch and stays. Files over the limits are left out.
    Raises `OSError` if git cannot be run.
    """
    if not target.exists():
        fresh = target.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        # OpenHands searches the parent folders for a repository, and must find this folder.
        _git(fresh, "init", "-q")
        _copy(repository, fresh)
        fresh.replace(target)
    return target if any(entry.name != ".git" for entry in target.iterdir()) else None


def _copy(repository: Path, target: Path) -> None:
    found = list(_tracked(repository, _PATTERNS))
    tracked = {file.path: file for file in found if _is_text(file.path)}
    unnamed = len(found) - len(tracked)
    links = _links(repository, [file for file in tracked.values() if file.mode == _LINK][:MOST_LINKS])
    if links:  # The links of the first list are followed once. Links behind links are left out.
        tracked |= {
            file.path: file
            for file in _tracked(repository, [f":(literal){to}" for to in links.values()])
            if _is_text(file.path)
        }
    files = sorted((file for file in tracked.values() if file.mode in _FILE), key=_order)
    read = [file for file in files if file.path.lower().endswith((".md", ".cursorrules"))][:MOST_FILES]
    left = _write_texts(repository, target, read)
    for file in files[:MOST_FILES]:
        # OpenHands lists the other files of a skill by name, so empty files are enough. An `.mcp.json` would start
        # programs before the model has asked for anything.
        if file not in read and posixpath.basename(file.path) != ".mcp.json":
            _place(target, file.path).touch()
    for path, to in links.items():
        place = _place(target, path)
        if not place.exists() and not place.is_symlink():
            place.symlink_to(os.path.relpath(target / to, place.parent))
    left += unnamed + max(0, len(files) - MOST_FILES)
    if left:
        logger.warning("repository instructions left out", extra={"fields": {"files": left}})


def _write_texts(repository: Path, target: Path, files: list[TrackedFile]) -> int:
    """Write the texts within the limits; return the number of files that were left out."""
    left, room = 0, MOST_BYTES
    sizes = _sizes(repository, [file.oid for file in files])
    fitting: list[TrackedFile] = []
    for file in files:
        size = sizes.get(file.oid, _LONGEST_BLOB + 1)
        room_after = room - min(size, LONGEST_FILE)
        if size > _LONGEST_BLOB or room_after < 0:
            left += 1
            continue
        room = room_after
        fitting.append(file)
    for file, body in zip(fitting, _blobs(repository, [file.oid for file in fitting]), strict=True):
        text = body[:LONGEST_FILE].decode(errors="replace")
        if len(body) > LONGEST_FILE:
            text += f"\n[Only the first {LONGEST_FILE} of {len(body)} bytes of this file are shown.]\n"
        if _has_alias(text):
            left += 1
        else:
            _place(target, file.path).write_text(text, encoding="utf-8")
    return left


def _has_alias(text: str) -> bool:
    """Return whether the YAML header of a skill contains an alias, by which a short header can become very large."""
    if not text.startswith("---"):
        return False
    import yaml

    parse: Callable[[str], Iterable[object]] = getattr(yaml, "parse")  # noqa: B009 - it has no types
    try:
        return any(isinstance(event, yaml.AliasEvent) for event in parse(text[3:].partition("\n---")[0]))
    except (yaml.YAMLError, RecursionError):
        return True


def _is_text(path: str) -> bool:
    """Return whether the bytes of a path are UTF-8. Another path cannot be sent in JSON."""
    return not any("\ud800" <= letter <= "\udfff" for letter in path)


def _order(file: TrackedFile) -> tuple[int, str]:
    return (file.path.count("/"), file.path)


def _place(target: Path, path: str) -> Path:
    place = target / path
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def _links(repository: Path, links: list[TrackedFile]) -> dict[str, str]:
    """Return the targets of symbolic links, by the path of the link, without targets outside the repository."""
    found: dict[str, str] = {}
    sizes = _sizes(repository, [link.oid for link in links])
    short = [link for link in links if sizes.get(link.oid, _LONGEST_BLOB) < LONGEST_FILE]
    for link, body in zip(short, _blobs(repository, [link.oid for link in short]), strict=True):
        to = posixpath.normpath(posixpath.join(posixpath.dirname(link.path), body.decode(errors="replace")))
        if not to.startswith(("/", "../")) and to not in ("..", ".") and to.split("/")[0] != ".git" and "\0" not in to:
            found[link.path] = to
    return found


def _tracked(repository: Path, patterns: list[str]) -> Iterator[TrackedFile]:
    """Return the tracked files that match git's pathspecs."""
    listed = _git(repository, "ls-files", "-s", "-z", "--", *patterns)
    for line in listed.split(b"\0")[:_MOST_LISTED]:
        head, tab, path = line.partition(b"\t")
        if tab:
            mode, oid, _ = head.decode().split()
            yield TrackedFile(mode, oid, os.fsdecode(path))


def _sizes(repository: Path, oids: list[str]) -> dict[str, int]:
    told = _git(repository, "cat-file", "--batch-check", asked=oids).decode()
    words = (line.split() for line in told.splitlines())
    return {word[0]: int(word[2]) for word in words if word[1:2] == ["blob"]}


def _blobs(repository: Path, oids: list[str]) -> Iterator[bytes]:
    told, at = _git(repository, "cat-file", "--batch", asked=oids), 0
    for _ in oids:
        end = told.index(b"\n", at)
        size = int(told[at:end].split()[2])
        yield told[end + 1 : end + 1 + size]
        at = end + 1 + size + 1


def _git(folder: Path, *args: str, asked: list[str] | None = None) -> bytes:
    """Run git without the configuration of the user or the system; return its output. Raises `OSError`."""
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    said = "".join(f"{oid}\n" for oid in asked or ()).encode()
    try:
        ran = subprocess.run(
            ["git", *args],
            cwd=folder,
            env=environment,
            input=said,
            capture_output=True,
            timeout=_DEADLINE_S,
            check=True,
        )
    except subprocess.SubprocessError as error:
        raise OSError(f"git {args[0]} failed: {error}") from None
    return ran.stdout

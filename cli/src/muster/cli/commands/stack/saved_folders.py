"""Saves the folders given to `muster up` in the data directory, so that the next start uses the same folders."""

from pathlib import Path

import msgspec

from muster.cli.client.target_sources import quoted_path
from muster.cli.console.output import Exit, fail, say
from muster.embedded.private_files import write_private

FILE = "places.json"


class StackFolders(msgspec.Struct, frozen=True, kw_only=True):
    """The folders of `muster up --scripts`, `--packages` and `--repo-root`."""

    scripts: tuple[Path, ...] = ()
    packages: tuple[Path, ...] = ()
    repo_root: tuple[Path, ...] = ()

    def completed_from(self, data_dir: Path) -> "StackFolders":
        """Return the folders for this start; an option without folders gets the saved folders of the last start.

        Prints each saved folder that is used. A saved folder that no longer exists is omitted and printed too.
        """
        saved, chosen = read(data_dir), dict[str, tuple[Path, ...]]()
        for name, folders in _by_option(self).items():
            before = _by_option(saved)[name]
            existing = tuple(folder for folder in before if folder.is_dir())
            chosen[name] = tuple(folder.resolve() for folder in folders) or existing
            if folders:
                continue
            for folder in existing:
                say(f"Used as in the last start: {_option_text(name, folder)}")
            for folder in set(before) - set(existing):
                say(f"Omitted, because the folder does not exist any more: {_option_text(name, folder)}")
        return StackFolders(**chosen)

    def save(self, data_dir: Path) -> None:
        """Save the folders in `data_dir` for the next `muster up`."""
        write_private(data_dir / FILE, msgspec.json.format(msgspec.json.encode(self, enc_hook=str)))


def read(data_dir: Path) -> StackFolders:
    """Return the saved folders, or no folders if nothing was saved. End the command if the file cannot be read."""
    file = data_dir / FILE
    try:
        return msgspec.json.decode(file.read_bytes(), type=StackFolders, dec_hook=lambda kind, text: kind(text))
    except FileNotFoundError:
        return StackFolders()
    except (OSError, msgspec.DecodeError) as error:
        fail(f"{file} cannot be read: {error}; remove it, and give the folders to `muster up` again", Exit.USAGE)


def _by_option(folders: StackFolders) -> dict[str, tuple[Path, ...]]:
    return {name: getattr(folders, name) for name in folders.__struct_fields__}


def _option_text(name: str, folder: Path) -> str:
    return f"--{name.replace('_', '-')} {quoted_path(folder)}"

"""The folders that `muster up` was told of, kept in its data directory for the next time."""

from pathlib import Path

import msgspec

from muster.cli.client.target_sources import quoted_path
from muster.cli.console.output import Exit, fail, say
from muster.embedded.private_files import write_private

FILE = "places.json"


class StackFolders(msgspec.Struct, frozen=True, kw_only=True):
    """Folders by the option that names them."""

    scripts: tuple[Path, ...] = ()
    packages: tuple[Path, ...] = ()
    repo_root: tuple[Path, ...] = ()

    def completed_from(self, data_dir: Path) -> "StackFolders":
        """With what was kept there for each option that is not given; the person is told of it."""
        kept, chosen = read(data_dir), dict[str, tuple[Path, ...]]()
        for name, given in _by_option(self).items():
            before = _by_option(kept)[name]
            there = tuple(place for place in before if place.is_dir())
            chosen[name] = tuple(place.resolve() for place in given) or there
            if given:
                continue
            for place in there:
                say(f"As before: {_words(name, place)}")
            for place in set(before) - set(there):
                say(f"No longer there, so left out: {_words(name, place)}")
        return StackFolders(**chosen)

    def keep(self, data_dir: Path) -> None:
        """For the next time."""
        write_private(data_dir / FILE, msgspec.json.format(msgspec.json.encode(self, enc_hook=str)))


def read(data_dir: Path) -> StackFolders:
    """What is kept there; ends the command if it cannot be read."""
    file = data_dir / FILE
    try:
        return msgspec.json.decode(file.read_bytes(), type=StackFolders, dec_hook=lambda kind, text: kind(text))
    except FileNotFoundError:
        return StackFolders()
    except (OSError, msgspec.DecodeError) as error:
        fail(f"{file} cannot be read: {error}; remove it, and name the folders to `muster up` again", Exit.USAGE)


def _by_option(places: StackFolders) -> dict[str, tuple[Path, ...]]:
    return {name: getattr(places, name) for name in places.__struct_fields__}


def _words(name: str, place: Path) -> str:
    return f"--{name.replace('_', '-')} {quoted_path(place)}"

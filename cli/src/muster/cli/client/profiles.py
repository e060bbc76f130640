"""`profiles.toml`: APIs by name, each with its URL and key, readable by its owner only."""

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from muster.cli.console.output import Exit, fail, say
from muster.common.contract import TOKEN

_SHARED = 0o077


@dataclass(frozen=True)
class Profile:
    """One API and the key for it, either of which may be missing."""

    url: str = ""
    key: str = field(default="", repr=False)


@dataclass
class Profiles:
    """All of them, and the name of the one that is used when none is named."""

    default: str = ""
    profiles: dict[str, Profile] = field(default_factory=dict[str, Profile])
    before: str = field(default="", compare=False)
    """What the default was before `choose`."""

    def choose(self, name: str) -> None:
        """Make this one the default; none, if the name is empty."""
        self.before, self.default = self.default, name

    @property
    def in_use(self) -> str:
        """The name that MUSTER_PROFILE says, or the default; empty if nothing is chosen."""
        return os.environ.get("MUSTER_PROFILE", "") or self.default

    def save(self) -> None:
        """Write them down, 0600."""
        import tomli_w

        from muster.embedded.private_files import write_private

        kept = {
            name: {field: value for field, value in (("url", one.url), ("key", one.key)) if value}
            for name, one in sorted(self.profiles.items())
        }
        body: dict[str, Any] = ({"default": self.default} if self.default else {}) | {"profiles": kept}
        place = profiles_file()
        try:
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_private(place, tomli_w.dumps(body).encode())
        except OSError as error:
            fail(f"{place} cannot be written: {error.strerror}")


class _File(msgspec.Struct):
    """The file as it is written."""

    default: str = ""
    profiles: dict[str, dict[str, str]] = {}


def profiles_file() -> Path:
    """Where they are kept."""
    return platformdirs.user_config_path("muster") / "profiles.toml"


def read_profiles() -> Profiles:
    """What is kept; nothing, if there is no file. Ends the command if it cannot be understood."""
    place = profiles_file()
    try:
        written = msgspec.convert(tomllib.loads(place.read_text()), _File)
        if place.stat().st_mode & _SHARED:
            say(f"muster: others may read the keys in {place}: chmod 600 {place}")
    except FileNotFoundError:
        return Profiles()
    except OSError as error:
        fail(f"{place} cannot be read: {error.strerror}", Exit.USAGE)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        fail(f"{place} cannot be read: {error}", Exit.USAGE)
    return Profiles(
        written.default,
        {name: Profile(one.get("url", ""), one.get("key", "")) for name, one in written.profiles.items()},
    )


def named_profile(kept: Profiles, name: str, said: str = "") -> Profile:
    """The one of this name; ends the command if there is none. `said` is what named it."""
    if name not in kept.profiles:
        by = f" ({said})" if said else ""
        fail(f"there is no profile {name!r}{by} in {profiles_file()}; `muster profile list` shows all", Exit.NOT_FOUND)
    return kept.profiles[name]


def profile_name(name: str) -> str:
    """A name that a profile may have."""
    if not TOKEN.fullmatch(name):
        fail(f"a profile's name is 1 to 64 of A-Z a-z 0-9 _ -, not {name!r}", Exit.USAGE)
    return name

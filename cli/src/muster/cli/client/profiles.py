"""Reads and writes `profiles.toml`, which holds the URL and key of several APIs by name (file mode 0600)."""

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
"""Permission bits of a file for its group and all other users."""


@dataclass(frozen=True)
class Profile:
    """The URL of an API and the key for this API; an empty string means that the value is not set."""

    url: str = ""
    key: str = field(default="", repr=False)


@dataclass
class Profiles:
    """All saved profiles by name, and the name of the default profile (empty: no default is set)."""

    default: str = ""
    profiles: dict[str, Profile] = field(default_factory=dict[str, Profile])
    before: str = field(default="", compare=False)
    """The default profile before the last `choose`."""

    def choose(self, name: str) -> None:
        """Make `name` the default profile; an empty name means that there is no default."""
        self.before, self.default = self.default, name

    @property
    def in_use(self) -> str:
        """The value of MUSTER_PROFILE, or else the name of the default profile; empty if neither is set."""
        return os.environ.get("MUSTER_PROFILE", "") or self.default

    def save(self) -> None:
        """Write `profiles.toml` with mode 0600; end the command with an error if the file cannot be written."""
        import tomli_w

        from muster.embedded.private_files import write_private

        profiles = {
            name: {field: value for field, value in (("url", one.url), ("key", one.key)) if value}
            for name, one in sorted(self.profiles.items())
        }
        body: dict[str, Any] = ({"default": self.default} if self.default else {}) | {"profiles": profiles}
        path = profiles_file()
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_private(path, tomli_w.dumps(body).encode())
        except OSError as error:
            fail(f"{path} cannot be written: {error.strerror}. Check the permissions of {path.parent}.")


class _ProfilesFile(msgspec.Struct):
    """Content of `profiles.toml`."""

    default: str = ""
    profiles: dict[str, dict[str, str]] = {}


def profiles_file() -> Path:
    """Return the path of `profiles.toml` in the user's configuration directory."""
    return platformdirs.user_config_path("muster") / "profiles.toml"


def read_profiles() -> Profiles:
    """Read `profiles.toml`; return no profiles if there is no file. End the command if the file is not valid."""
    path = profiles_file()
    try:
        content = msgspec.convert(tomllib.loads(path.read_text()), _ProfilesFile)
        if path.stat().st_mode & _SHARED:
            say(f"muster: other users may read the keys in {path}. Remove this permission: chmod 600 {path}")
    except FileNotFoundError:
        return Profiles()
    except OSError as error:
        fail(f"{path} cannot be read: {error.strerror}. Check its permissions.", Exit.USAGE)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        fail(f"{path} cannot be read: {error}. Correct or remove the file.", Exit.USAGE)
    return Profiles(
        content.default,
        {name: Profile(one.get("url", ""), one.get("key", "")) for name, one in content.profiles.items()},
    )


def named_profile(saved: Profiles, name: str, selected_by: str = "") -> Profile:
    """Return the saved profile `name`; end the command with an error if no saved profile has this name.

    `selected_by` is the flag or variable that selected the profile; the error message contains `selected_by`.
    """
    if name not in saved.profiles:
        by = f" ({selected_by})" if selected_by else ""
        fail(f"there is no profile {name!r}{by} in {profiles_file()}; `muster profile list` shows all", Exit.NOT_FOUND)
    return saved.profiles[name]


def valid_profile_name(name: str) -> str:
    """Return `name` if it is a valid profile name; end the command with an error if it is not."""
    if not TOKEN.fullmatch(name):
        fail(f"{name!r} cannot name a profile. Use 1 to 64 of the characters A-Z a-z 0-9 _ -", Exit.USAGE)
    return name

"""Which API is meant. A flag, then the environment, then the default profile, then the stack on this machine.

The flags are `--url`, `--profile` and `--data`; the variables, the first that is set, `MUSTER_API_URL`,
`MUSTER_PROFILE` and `MUSTER_DATA_DIR`.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from muster.cli.client.profiles import Profiles, named_profile, read_profiles
from muster.cli.client.target_sources import (
    KEY_OPTION,
    KEY_VARIABLE,
    URL_OPTION,
    URL_VARIABLE,
    TargetSource,
    profile_source,
    quoted_path,
    stack_source,
)
from muster.cli.console.output import Exit, fail

if TYPE_CHECKING:
    from muster.embedded.ready import Ready


class TargetOptions(NamedTuple):
    """Which API a command was told to talk to."""

    url: str | None = None
    key: str | None = None
    profile: str | None = None
    data: Path | None = None


NO_OPTIONS = TargetOptions()


@dataclass(frozen=True, kw_only=True)
class ApiTarget:
    """An API to talk to, the key for it, and where each was found."""

    url: str
    key: str = field(repr=False)
    url_source: TargetSource
    key_source: TargetSource


def find_target(target: TargetOptions = NO_OPTIONS) -> ApiTarget:
    """The API these options mean; ends the command with what to do if there is none, or no key for it."""
    found = find_target_without_key(target)
    return replace(found, key=usable_key(found))


def find_target_without_key(target: TargetOptions = NO_OPTIONS) -> ApiTarget:
    """The same, where a key may still be missing."""
    said = [name for name, value in _naming(target) if value]
    if len(said) > 1:
        raise click.UsageError(f"{' and '.join(said)} name an API each: give one of them")
    found = _of_flags(target) or _of_environment() or _of_default_profile() or _of_data(data_directory())
    url = http_url(found.url, found.url_source.words)
    key_here = os.environ.get("MUSTER_API_KEY", "")
    _refuse_empty(target)
    if target.key:
        return replace(found, url=url, key=target.key, key_source=KEY_OPTION)
    if key_here and not (said and found.key):  # what is said here and now brings its own key, if it has one
        return replace(found, url=url, key=key_here, key_source=KEY_VARIABLE)
    return replace(found, url=url)


def _refuse_empty(target: TargetOptions) -> None:
    """A script whose variable is unset must not go on with somebody else's key, which may be an admin's."""
    if target.key is not None and not target.key.strip():
        raise click.UsageError("--key is empty: give a key, or leave the option away")
    if target.key is None and not os.environ.get("MUSTER_API_KEY", "unset").strip():
        raise click.UsageError("MUSTER_API_KEY is set, but empty: give it a key, or unset it")


def data_directory(given: Path | None = None) -> Path:
    """`--data`, then `MUSTER_DATA_DIR`, then the configuration file's `data_dir`, then the platform's place."""
    import platformdirs

    return given or configured_data_directory() or platformdirs.user_data_path("muster")


def configured_data_directory() -> Path | None:
    """What the environment or the configuration file says, if they do."""
    told = os.environ.get("MUSTER_DATA_DIR") or configured("data_dir")
    return Path(told).expanduser() if told else None


def configured(name: str) -> str:
    """What stands at the top of the configuration file, if there is one; ends the command if it cannot be read."""
    if not os.environ.get("MUSTER_CONFIG"):
        return ""
    from muster.common.configuration import ConfigurationError, read_configuration

    try:
        file = read_configuration(os.environ)
    except ConfigurationError as error:
        fail(str(error), Exit.USAGE)
    return str(file.top.get(name, "")) if file else ""


def overriding_variable() -> str | None:
    """The variable that is set here and names another API than the default profile does."""
    names = ("MUSTER_API_URL", "MUSTER_PROFILE", "MUSTER_DATA_DIR")
    return next((name for name in names if os.environ.get(name)), None)


def usable_key(found: ApiTarget) -> str:
    """Its key as a header takes it; ends the command if there is none."""
    key = found.key.strip()
    if not key:
        fail(f"no key is known for {found.url} ({found.url_source.words}): {found.url_source.without_key}", Exit.AUTH)
    if not (key.isascii() and key.isprintable()):
        fail(f"the key from {found.key_source.words} holds characters that no key has", Exit.AUTH)
    return key


def read_ready_file(file: Path) -> "Ready | None":
    """What a stack wrote there, or None; ends the command if it cannot be read."""
    import msgspec

    # Only msgspec stands behind this import; a remote API needs no embedded stack.
    from muster.embedded.ready import read_ready

    try:
        return read_ready(file)
    except PermissionError:
        fail(f"{file} belongs to another user: name the API with --url and give --key", Exit.AUTH)
    except NotADirectoryError:
        fail(f"{file.parent} is no directory, so no stack is there", Exit.USAGE)
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}", Exit.USAGE)
    except msgspec.DecodeError as error:
        fail(f"{file} is not what `muster up` writes: {error}", Exit.USAGE)


def _naming(target: TargetOptions) -> tuple[tuple[str, object], ...]:
    return ("--url", target.url), ("--profile", target.profile), ("--data", target.data)


def _of_flags(target: TargetOptions) -> ApiTarget | None:
    if target.url:
        return ApiTarget(url=target.url, key="", url_source=URL_OPTION, key_source=KEY_OPTION)
    if target.profile:
        return _of_profile(read_profiles(), target.profile, "--profile")
    return _of_data(target.data, "--data") if target.data else None


def _of_environment() -> ApiTarget | None:
    match overriding_variable():
        case "MUSTER_API_URL" as name:
            return ApiTarget(url=os.environ[name], key="", url_source=URL_VARIABLE, key_source=KEY_VARIABLE)
        case "MUSTER_PROFILE" as name:
            return _of_profile(read_profiles(), os.environ[name], name)
        case "MUSTER_DATA_DIR" as name:
            return _of_data(Path(os.environ[name]), name)
        case _:
            return None


def _of_default_profile() -> ApiTarget | None:
    kept = read_profiles()
    return _of_profile(kept, kept.default, "the default") if kept.default else None


def _of_profile(profiles: Profiles, name: str, said: str) -> ApiTarget:
    kept, origin = named_profile(profiles, name, said), profile_source(name, said)
    if not kept.url:
        fail(f"{origin.words} has no URL: `muster profile add {name} --url URL` gives it one", Exit.USAGE)
    return ApiTarget(url=kept.url, key=kept.key, url_source=origin, key_source=origin)


def _of_data(place: Path, said: str = "") -> ApiTarget:
    ready = read_ready_file(place / "ready.json")
    if ready is None and said:
        other = "" if said == "--data" else f"; or unset {said}, or say --data or --profile"
        start = f"`muster up --data {quoted_path(place)}` starts one"
        fail(f"no stack is running in {place} ({said}): {start}{other}", Exit.UNREACHABLE)
    if ready is None:
        fail(
            f"no stack is running in {place}, and no other API is named: `muster up` starts one; --data or "
            "MUSTER_DATA_DIR finds one that was started with `up --data`; --url, --profile or `muster auth login` "
            "name any other",
            Exit.UNREACHABLE,
        )
    origin = stack_source(place, said)
    return ApiTarget(url=ready.api_url, key=ready.admin_key, url_source=origin, key_source=origin)


def http_url(address: str, said: str) -> str:
    """`address` without a slash at its end; ends the command unless it is one. `said` is what gave it."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(address)
        fit = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fit = False
    if not fit or not address.isascii() or not address.isprintable() or " " in address:
        fail(f"a URL is http://HOST:PORT or https://HOST, not {address!r} ({said})", Exit.USAGE)
    return address.rstrip("/")

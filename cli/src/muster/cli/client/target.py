"""Finds the URL and the key of the API that a command calls.

The URL comes from the first of these sources that is set:

1. a flag: `--url`, `--profile` or `--data`;
2. a variable: `MUSTER_API_URL`, then `MUSTER_PROFILE`, then `MUSTER_DATA_DIR`;
3. the default profile;
4. the stack on this machine, through the `ready.json` in its data directory.

The key comes from `--key`; then from the profile or stack that a flag names; then from `MUSTER_API_KEY`; then from the
profile or stack that gave the URL. A profile's key is therefore never sent to the URL of another source.
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
    """The options of a command that select an API: `--url`, `--key`, `--profile` and `--data`."""

    url: str | None = None
    key: str | None = None
    profile: str | None = None
    data: Path | None = None


NO_OPTIONS = TargetOptions()
"""The options of a command line without any of the four flags."""


@dataclass(frozen=True, kw_only=True)
class ApiTarget:
    """The URL of an API, the key for this API (empty: no key is known), and the sources of URL and key."""

    url: str
    key: str = field(repr=False)
    url_source: TargetSource
    key_source: TargetSource


def find_target(target: TargetOptions = NO_OPTIONS) -> ApiTarget:
    """Return the API that the options, the environment or the saved profiles select, together with a key for this API.

    Ends the command with advice if no API is selected or no key for the API is known.
    """
    found = find_target_without_key(target)
    return replace(found, key=usable_key(found))


def find_target_without_key(target: TargetOptions = NO_OPTIONS) -> ApiTarget:
    """Return the API that `find_target` would return, but with an empty key if no key for the API is known."""
    flags = [name for name, value in _selecting_flags(target) if value]
    if len(flags) > 1:
        raise click.UsageError(f"{' and '.join(flags)} each select an API: give only one of them")
    found = (
        _from_flags(target) or _from_environment() or _from_default_profile() or _from_data_directory(data_directory())
    )
    url = http_url(found.url, found.url_source.words)
    key_variable = os.environ.get("MUSTER_API_KEY", "")
    _refuse_empty_key(target)
    if target.key:
        return replace(found, url=url, key=target.key, key_source=KEY_OPTION)
    # The key of a profile or stack that a flag names takes precedence over MUSTER_API_KEY, because a flag applies
    # to this command only.
    if key_variable and not (flags and found.key):
        return replace(found, url=url, key=key_variable, key_source=KEY_VARIABLE)
    return replace(found, url=url)


def _refuse_empty_key(target: TargetOptions) -> None:
    """Raise `click.UsageError` if the key option or variable is set to an empty value.

    A script with `--key "$KEY"` and an unset variable would otherwise use another key, perhaps an administrator's.
    """
    if target.key is not None and not target.key.strip():
        raise click.UsageError("--key is empty: give a key, or omit the option")
    if target.key is None and not os.environ.get("MUSTER_API_KEY", "unset").strip():
        raise click.UsageError("MUSTER_API_KEY is set, but empty: set it to a key, or unset it")


def data_directory(option: Path | None = None) -> Path:
    """Return the stack's data directory.

    The directory comes from the first of these settings that has a value: `--data` (`option`), `MUSTER_DATA_DIR` and
    `data_dir` in the configuration file. If none has a value, the platform's directory for user data is used.
    """
    import platformdirs

    return option or configured_data_directory() or platformdirs.user_data_path("muster")


def configured_data_directory() -> Path | None:
    """Return the data directory that the environment or the configuration file sets; None if neither sets one."""
    path = os.environ.get("MUSTER_DATA_DIR") or configured("data_dir")
    return Path(path).expanduser() if path else None


def configured(name: str) -> str:
    """Return a top-level value of the configuration file, or an empty string if the file or the value is missing.

    Ends the command if the file cannot be read.
    """
    if not os.environ.get("MUSTER_CONFIG"):
        return ""
    from muster.common.configuration_file import ConfigurationError, read_configuration

    try:
        file = read_configuration(os.environ)
    except ConfigurationError as error:
        fail(str(error), Exit.USAGE)
    return str(file.top.get(name, "")) if file else ""


def overriding_variable() -> str | None:
    """Return the name of the environment variable that overrides the default profile; None if none is set."""
    names = ("MUSTER_API_URL", "MUSTER_PROFILE", "MUSTER_DATA_DIR")
    return next((name for name in names if os.environ.get(name)), None)


def usable_key(found: ApiTarget) -> str:
    """Return the target's key without surrounding white space; end the command if the key is missing or not valid."""
    key = found.key.strip()
    if not key:
        fail(f"no key is known for {found.url} ({found.url_source.words}): {found.url_source.without_key}", Exit.AUTH)
    if not (key.isascii() and key.isprintable()):
        fail(
            f"the key from {found.key_source.words} is not valid: it contains other characters than printable ASCII. "
            "Copy the key again",
            Exit.AUTH,
        )
    return key


def read_ready_file(file: Path) -> "Ready | None":
    """Read a stack's `ready.json`; return None if the file is missing. End the command if the file is invalid."""
    import msgspec

    # `muster.embedded.ready` imports only msgspec. A command for a remote API must not load the whole embedded stack.
    from muster.embedded.ready import read_ready

    try:
        return read_ready(file)
    except PermissionError:
        fail(f"{file} belongs to another user: select the API with --url and give --key", Exit.AUTH)
    except NotADirectoryError:
        fail(f"{file.parent} is not a directory; give a stack's data directory", Exit.USAGE)
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}. Check its permissions.", Exit.USAGE)
    except msgspec.DecodeError as error:
        fail(
            f"{file} was not written by `muster up`: {error}. Give a stack's data directory or ready file.", Exit.USAGE
        )


def _selecting_flags(target: TargetOptions) -> tuple[tuple[str, object], ...]:
    return ("--url", target.url), ("--profile", target.profile), ("--data", target.data)


def _from_flags(target: TargetOptions) -> ApiTarget | None:
    if target.url:
        return ApiTarget(url=target.url, key="", url_source=URL_OPTION, key_source=KEY_OPTION)
    if target.profile:
        return _from_profile(read_profiles(), target.profile, "--profile")
    return _from_data_directory(target.data, "--data") if target.data else None


def _from_environment() -> ApiTarget | None:
    match overriding_variable():
        case "MUSTER_API_URL" as name:
            return ApiTarget(url=os.environ[name], key="", url_source=URL_VARIABLE, key_source=KEY_VARIABLE)
        case "MUSTER_PROFILE" as name:
            return _from_profile(read_profiles(), os.environ[name], name)
        case "MUSTER_DATA_DIR" as name:
            return _from_data_directory(Path(os.environ[name]), name)
        case _:
            return None


def _from_default_profile() -> ApiTarget | None:
    saved = read_profiles()
    return _from_profile(saved, saved.default, "the default") if saved.default else None


def _from_profile(profiles: Profiles, name: str, selected_by: str) -> ApiTarget:
    profile, source = named_profile(profiles, name, selected_by), profile_source(name, selected_by)
    if not profile.url:
        fail(f"{source.words} has no URL: `muster profile add {name} --url URL` sets it", Exit.USAGE)
    return ApiTarget(url=profile.url, key=profile.key, url_source=source, key_source=source)


def _from_data_directory(data_dir: Path, selected_by: str = "") -> ApiTarget:
    ready = read_ready_file(data_dir / "ready.json")
    if ready is None and selected_by:
        other = "" if selected_by == "--data" else f"; or unset {selected_by}, or give --data or --profile"
        start = f"`muster up --data {quoted_path(data_dir)}` starts one"
        fail(f"no stack is running in {data_dir} ({selected_by}): {start}{other}", Exit.UNREACHABLE)
    if ready is None:
        fail(
            f"no stack is running in {data_dir}, and no other API is selected: `muster up` starts a stack; --data or "
            "MUSTER_DATA_DIR selects a stack that was started with `up --data`; --url, --profile or "
            "`muster auth login` selects any other API",
            Exit.UNREACHABLE,
        )
    source = stack_source(data_dir, selected_by)
    return ApiTarget(url=ready.api_url, key=ready.admin_key, url_source=source, key_source=source)


def http_url(address: str, selected_by: str) -> str:
    """Return `address` without a trailing slash; end the command with an error if it is not an HTTP URL.

    `selected_by` is the flag or variable that gave the address; the error message contains `selected_by`.
    """
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(address)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not address.isascii() or not address.isprintable() or " " in address:
        fail(f"{address!r} ({selected_by}) is not a URL. Give http://HOST:PORT or https://HOST", Exit.USAGE)
    return address.rstrip("/")

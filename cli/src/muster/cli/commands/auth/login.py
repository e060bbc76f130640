"""Implements `muster auth login | logout | whoami`, which save, delete and show the user's key."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
import msgspec

from muster.cli.client.profiles import Profile, Profiles, named_profile, read_profiles, valid_profile_name
from muster.cli.client.target import ApiTarget, TargetOptions, find_target, find_target_without_key, usable_key
from muster.cli.client.target_sources import PROMPT
from muster.cli.commands.call_api import PATH, api_options, call_target
from muster.cli.commands.profile import default_profile_message
from muster.cli.console.output import (
    Exit,
    OutputFormat,
    TableLayout,
    describe,
    emit,
    emit_rows,
    fail,
    output_option,
    say,
)
from muster.cli.console.prompts import ask_user, confirm, yes_option

if TYPE_CHECKING:
    from muster.client import AsyncMuster
    from muster.common.contracts.access import WhoAmI

DEFAULT = "default"
CALLER = TableLayout(columns=("who", "name", "role", "via", "scopes", "project", "expires_at"), name="who")
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


@click.command()
@click.option(
    "--url",
    metavar="URL",
    help="Log in to the API at URL; otherwise to the API of the profile, or to the stack on this machine.",
)
@click.option("--data", metavar="DIR", type=PATH, help="Log in to the stack with this data directory.")
@click.option(
    *("--profile", "name"),
    metavar="NAME",
    help="Save the key in this profile; otherwise in the profile in use or `default`.",
)
def login(*, url: str | None, data: Path | None, name: str | None) -> None:
    """Save a key or an OIDC token for an API.

    On a terminal the command prompts for the key; otherwise it reads the key from stdin. The key is saved only if the
    API accepts it. The key's profile becomes the default profile, which every command uses if no flag and no variable
    selects another API.
    """
    saved = read_profiles()
    named, name = bool(name), valid_profile_name(name or saved.in_use or DEFAULT)
    before = saved.profiles.get(name, Profile())
    found = find_target_without_key(
        TargetOptions(url=url, data=data, profile=name if before.url and not (url or data) else None)
    )
    if before.url and before.url != found.url and not named:
        fail(
            f"profile {name} has the URL {before.url}, not {found.url}. Give --profile NAME to save another profile, "
            f"or --profile {name} to replace this one",
            Exit.USAGE,
        )
    _warn_if_unencrypted(found.url)
    found = replace(found, key=_read_key(found.url).strip(), key_source=PROMPT)
    if not found.key:
        fail("the key is empty. Type it at the prompt, or pipe it into stdin", Exit.AUTH)
    found = replace(found, key=usable_key(found))
    caller = call_target(found, _whoami)
    _save(saved, name, found)
    role = f" ({caller.role})" if caller.role else " without a role: an administrator has to give you one"
    say(f"Logged in to {found.url} as {caller.who}{role}.")
    say(default_profile_message(saved, name))


def _save(saved: Profiles, name: str, found: ApiTarget) -> None:
    saved.profiles[name] = Profile(found.url, found.key)
    saved.choose(name)
    saved.save()


@click.command()
@click.option(
    "--profile", "name", metavar="NAME", help="Delete the key of this profile; otherwise of the profile in use."
)
@yes_option
def logout(*, name: str | None, yes: bool) -> None:
    """Delete the key of a profile from this machine. The key stays valid until it is revoked or expires."""
    saved = read_profiles()
    chosen = name or saved.in_use
    if not chosen:
        fail("no profile is in use. Give --profile NAME; `muster profile list` shows all profiles", Exit.NOT_FOUND)
    before = named_profile(saved, chosen)
    confirm(f"Delete the key of profile {chosen} ({before.url}) from this machine?", yes=yes)
    saved.profiles[chosen] = replace(before, key="")
    saved.save()
    say(f"The key of profile {chosen} is deleted.")


@click.command()
@output_option
@api_options
def whoami(*, form: OutputFormat, target: TargetOptions) -> None:
    """Show your identity, role and scopes at the API, and the sources of the URL and key."""
    found = find_target(target)
    caller = call_target(found, _whoami)
    row: dict[str, object] = msgspec.to_builtins(caller)
    match form:
        case "table":
            sources = {"url": f"{found.url}, from {found.url_source.words}", "key": f"from {found.key_source.words}"}
            describe({**row, **sources})
        case "name":
            emit_rows([row], form, CALLER)
        case _:
            sources = {"url": found.url, "url_from": found.url_source.words, "key_from": found.key_source.words}
            emit({**row, **sources}, form)


async def _whoami(api: "AsyncMuster") -> "WhoAmI":
    return await api.whoami()


def _read_key(url: str) -> str:
    if sys.stdin.isatty():
        return ask_user(lambda: click.prompt(f"Key or token for {url}", hide_input=True, err=True))
    return sys.stdin.readline()


def _warn_if_unencrypted(url: str) -> None:
    address = urlsplit(url)
    if address.scheme == "http" and address.hostname not in _LOCAL_HOSTS:
        say(f"muster: the connection to {url} is not encrypted, so others can read the key. Use https:// if you can.")

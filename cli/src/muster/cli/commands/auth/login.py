"""`muster auth login | logout | whoami`."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click
import msgspec

from muster.cli.client.profiles import Profile, Profiles, named_profile, profile_name, read_profiles
from muster.cli.client.target import ApiTarget, TargetOptions, find_target, find_target_without_key, usable_key
from muster.cli.client.target_sources import TYPED
from muster.cli.commands.call_api import PATH, api_options, call_target
from muster.cli.commands.profile import default_profile_message
from muster.cli.console.output import Exit, Form, Shape, describe, emit, emit_rows, fail, output_option, say
from muster.cli.console.prompts import asked, confirm, yes_option

if TYPE_CHECKING:
    from muster.cli.client.api import ApiClient
    from muster.common.contracts.identity import WhoAmI

DEFAULT = "default"
CALLER = Shape(columns=("who", "name", "role", "via", "scopes", "project", "expires_at"), name="who")
_NEAR = frozenset({"localhost", "127.0.0.1", "::1"})


@click.command()
@click.option("--url", metavar="URL", help="The API to log in to; otherwise the profile's, or the stack found here.")
@click.option("--data", metavar="DIR", type=PATH, help="Or the stack of this data directory.")
@click.option(
    "--profile", "name", metavar="NAME", help="Under which name to keep it; otherwise the one in use, or `default`."
)
def login(*, url: str | None, data: Path | None, name: str | None) -> None:
    """Keep a key, or an OIDC token, for an API: asked for on a terminal, otherwise read from stdin.

    It is tried first: only a key that the API knows is kept. The profile is the default from then on: what every
    command uses where no flag and no variable names another API.
    """
    kept = read_profiles()
    named, name = bool(name), profile_name(name or kept.in_use or DEFAULT)
    before = kept.profiles.get(name, Profile())
    found = find_target_without_key(
        TargetOptions(url=url, data=data, profile=name if before.url and not (url or data) else None)
    )
    if before.url and before.url != found.url and not named:
        fail(
            f"profile {name} is {before.url}, not {found.url}: give --profile NAME to keep this one beside it, or "
            f"--profile {name} to replace it",
            Exit.USAGE,
        )
    _warn_of_plain_text(found.url)
    found = replace(found, key=_read_key(found.url).strip(), key_source=TYPED)
    if not found.key:
        fail("no key was given; it is asked for on a terminal, and otherwise read from stdin", Exit.AUTH)
    found = replace(found, key=usable_key(found))
    caller = call_target(found, _ask)
    _keep(kept, name, found)
    role = f" ({caller.role})" if caller.role else " without a role: an administrator has to give you one"
    say(f"Logged in to {found.url} as {caller.who}{role}.")
    say(default_profile_message(kept, name))


def _keep(kept: Profiles, name: str, found: ApiTarget) -> None:
    kept.profiles[name] = Profile(found.url, found.key)
    kept.choose(name)
    kept.save()


@click.command()
@click.option("--profile", "name", metavar="NAME", help="Whose key; otherwise that of the profile in use.")
@yes_option
def logout(*, name: str | None, yes: bool) -> None:
    """Forget the key of a profile. It stays valid until it is revoked or expires."""
    kept = read_profiles()
    chosen = name or kept.in_use
    if not chosen:
        fail("no profile is in use, so no key is kept", Exit.NOT_FOUND)
    before = named_profile(kept, chosen)
    confirm(f"Forget the key of profile {chosen} ({before.url})?", yes=yes)
    kept.profiles[chosen] = replace(before, key="")
    kept.save()
    say(f"The key of profile {chosen} is forgotten.")


@click.command()
@output_option
@api_options
def whoami(*, form: Form, target: TargetOptions) -> None:
    """Show who the API takes you for, what you may do, and where its URL and your key were found."""
    found = find_target(target)
    caller = call_target(found, _ask)
    row: dict[str, object] = msgspec.to_builtins(caller)
    match form:
        case "table":
            places = {"url": f"{found.url}, from {found.url_source.words}", "key": f"from {found.key_source.words}"}
            describe({**row, **places})
        case "name":
            emit_rows([row], form, CALLER)
        case _:
            places = {"url": found.url, "url_from": found.url_source.words, "key_from": found.key_source.words}
            emit({**row, **places}, form)


async def _ask(api: "ApiClient") -> "WhoAmI":
    return await api.identity.whoami()


def _read_key(url: str) -> str:
    if sys.stdin.isatty():
        return asked(lambda: click.prompt(f"Key or token for {url}", hide_input=True, err=True))
    return sys.stdin.readline()


def _warn_of_plain_text(url: str) -> None:
    address = urlsplit(url)
    if address.scheme == "http" and address.hostname not in _NEAR:
        say(f"muster: {url} is not encrypted: whoever is on the way can read the key")

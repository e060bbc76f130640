"""`muster profile`: APIs by name, so that one need not give their URLs and keys."""

from dataclasses import replace
from typing import Any

import click

from muster.cli.client.profiles import Profile, Profiles, named_profile, profile_name, profiles_file, read_profiles
from muster.cli.client.target import http_url, overriding_variable
from muster.cli.console.output import Exit, Form, Row, Shape, describe, emit, emit_rows, fail, output_option, say
from muster.cli.console.prompts import confirm, yes_option

PROFILES = Shape(
    columns=("name", "default", "url", "key"),
    cells=lambda row: {**row, "default": "yes" if row["default"] else None},
)


@click.group()
def profile() -> None:
    """Keep several APIs by name. They are in profiles.toml, which only its owner can read."""


@profile.command("list")
@output_option
def list_(*, form: Form) -> None:
    """Show all of them; a key is shown by its beginning only."""
    kept = read_profiles()
    rows = [_row(kept, name) for name in sorted(kept.profiles)]
    none = "No profiles yet. `muster profile add NAME --url URL` or `muster auth login --profile NAME` makes one."
    emit_rows(rows, form, PROFILES, empty=none)
    if rows and (variable := overriding_variable()):
        say(f"Here {variable} is set and goes before the default.")


@profile.command()
@click.argument("name", required=False)
@output_option
def show(name: str | None, *, form: Form) -> None:
    """Show NAME, or the one in use. Its key is masked."""
    kept = read_profiles()
    chosen = name or kept.in_use
    if not chosen:
        fail("no profile is in use; `muster profile use NAME` chooses one", Exit.NOT_FOUND)
    named_profile(kept, chosen, "MUSTER_PROFILE" if not name and chosen != kept.default else "")
    row = _row(kept, chosen)
    match form:
        case "table":
            describe({**row, "file": str(profiles_file())})
        case "name":
            emit_rows([row], form, PROFILES)
        case _:
            emit(row, form)


@profile.command()
@click.argument("name", required=False)
@click.option("--none", "nothing", is_flag=True, help="Let no profile be the default: use the stack on this machine.")
def use(name: str | None, *, nothing: bool) -> None:
    """Make NAME the default. It is used where no flag and no variable names another API."""
    if bool(name) is nothing:
        raise click.UsageError("give the NAME of a profile, or --none")
    kept = read_profiles()
    if name:
        named_profile(kept, name)
    kept.choose(name or "")
    kept.save()
    if name:
        say(default_profile_message(kept, name))
    else:
        say("No profile is the default now: the stack on this machine is used where nothing else is said.")


@profile.command()
@click.argument("name")
@click.option("--url", metavar="URL", required=True, help="Where its API is.")
@click.option("--use", "in_use", is_flag=True, help="Make it the default.")
def add(name: str, *, url: str, in_use: bool) -> None:
    """Keep an API as NAME, or give NAME another URL. `muster auth login --profile NAME` then adds the key."""
    url = http_url(url, "--url")
    kept = read_profiles()
    before = kept.profiles.get(profile_name(name), Profile())
    # A key is good for its own API only, and must not be sent to another.
    kept.profiles[name] = before if before.url == url else replace(before, url=url, key="")
    if in_use:
        kept.choose(name)
    kept.save()
    hint = "" if kept.profiles[name].key else f" `muster auth login --profile {name}` adds the key."
    say(f"{name} is kept: {url}.{hint}")
    if in_use:
        say(default_profile_message(kept, name))


@profile.command()
@click.argument("name")
@yes_option
def remove(name: str, *, yes: bool) -> None:
    """Forget NAME and its key."""
    kept = read_profiles()
    named_profile(kept, name)
    confirm(f"Forget profile {name} and its key?", yes=yes)
    had_key = bool(kept.profiles.pop(name).key)
    if kept.default == name:
        kept.default = ""
    kept.save()
    hint = " Its key is valid until it is revoked (`muster auth keys revoke`) or expires." if had_key else ""
    say(f"{name} is forgotten.{hint}")


def default_profile_message(kept: Profiles, name: str) -> str:
    """That this profile is the default now, what was before, and what goes before it here."""
    back = f"`muster profile use {kept.before}`" if kept.before else "`muster profile use --none`"
    was = f"before, it was {kept.before}" if kept.before else "before, none was: the stack on this machine was used"
    told = f"Profile {name} (in {profiles_file()}) is the default now."
    if kept.before != name:
        told = f"{told[:-1]}; {was}. {back} changes back."
    if variable := overriding_variable():
        told += f"\nHere {variable} is set and goes before it: unset it, or give --profile {name}."
    return told


def _row(kept: Profiles, name: str) -> Row:
    one = kept.profiles[name]
    row: dict[str, Any] = {"name": name, "default": name == kept.default, "url": one.url, "key": masked(one.key)}
    return row


def masked(key: str) -> str | None:
    """Enough of a key to tell which it is: the public beginning of one of Muster's, nothing of any other."""
    if not key:
        return None
    words = key.split("_")
    if words[0] == "mk" and len(words) > 2:  # noqa: PLR2004 - mk_<id>_<secret>
        return "_".join((*words[:-1], "…"))
    return "…"

"""Implements `muster profile`, which saves the URLs and keys of APIs under names."""

from dataclasses import replace
from typing import Any

import click

from muster.cli.client.profiles import (
    Profile,
    Profiles,
    named_profile,
    profiles_file,
    read_profiles,
    valid_profile_name,
)
from muster.cli.client.target import http_url, overriding_variable
from muster.cli.console.command_group import CommandGroup
from muster.cli.console.output import (
    Exit,
    OutputFormat,
    Row,
    TableLayout,
    describe,
    emit,
    emit_rows,
    fail,
    output_option,
    say,
)
from muster.cli.console.prompts import confirm, yes_option

PROFILES = TableLayout(
    columns=("name", "default", "url", "key"),
    cells=lambda row: {**row, "default": "yes" if row["default"] else None},
)


@click.group(cls=CommandGroup)
def profile() -> None:
    """Save API addresses under names and choose between them.

    Profiles are stored in profiles.toml, which only its owner can read.
    """


@profile.command("list")
@output_option
def list_(*, form: OutputFormat) -> None:
    """List all profiles; only the beginning of each key is shown."""
    saved = read_profiles()
    rows = [_row(saved, name) for name in sorted(saved.profiles)]
    none = "No profiles yet. `muster profile add NAME --url URL` or `muster auth login --profile NAME` makes one."
    emit_rows(rows, form, PROFILES, empty=none)
    if rows and (variable := overriding_variable()):
        say(f"{variable} is set in this shell and overrides the default profile.")


@profile.command()
@click.argument("name", required=False)
@output_option
def show(name: str | None, *, form: OutputFormat) -> None:
    """Show the profile NAME, or the profile in use; the key is masked."""
    saved = read_profiles()
    chosen = name or saved.in_use
    if not chosen:
        fail("no profile is in use; `muster profile use NAME` selects one", Exit.NOT_FOUND)
    named_profile(saved, chosen, "MUSTER_PROFILE" if not name and chosen != saved.default else "")
    row = _row(saved, chosen)
    match form:
        case "table":
            describe({**row, "file": str(profiles_file())})
        case "name":
            emit_rows([row], form, PROFILES)
        case _:
            emit(row, form)


@profile.command()
@click.argument("name", required=False)
@click.option(
    "--none",
    "no_default",
    is_flag=True,
    help="Remove the default profile, so that commands call the stack on this machine.",
)
def use(name: str | None, *, no_default: bool) -> None:
    """Make NAME the default profile.

    The default profile is used if no flag and no variable selects another API.
    """
    if bool(name) is no_default:
        raise click.UsageError("give the NAME of a profile, or --none")
    saved = read_profiles()
    if name:
        named_profile(saved, name)
    saved.choose(name or "")
    saved.save()
    if name:
        say(default_profile_message(saved, name))
    else:
        say("There is no default profile now. Without a flag or variable, commands call the stack on this machine.")


@profile.command()
@click.argument("name")
@click.option("--url", metavar="URL", required=True, help="Save URL as the address of the API.")
@click.option("--use", "in_use", is_flag=True, help="Make the profile the default.")
def add(name: str, *, url: str, in_use: bool) -> None:
    """Save an API as NAME, or set another URL for NAME. `muster auth login --profile NAME` then adds the key."""
    url = http_url(url, "--url")
    saved = read_profiles()
    before = saved.profiles.get(valid_profile_name(name), Profile())
    # A key must be sent only to the API that it belongs to, so a change of the URL deletes the key.
    saved.profiles[name] = before if before.url == url else replace(before, url=url, key="")
    if in_use:
        saved.choose(name)
    saved.save()
    hint = "" if saved.profiles[name].key else f" `muster auth login --profile {name}` adds the key."
    say(f"Profile {name} is saved: {url}.{hint}")
    if in_use:
        say(default_profile_message(saved, name))


@profile.command()
@click.argument("name")
@yes_option
def remove(name: str, *, yes: bool) -> None:
    """Delete the profile NAME with its key from this machine. The key stays valid until it is revoked or expires."""
    saved = read_profiles()
    named_profile(saved, name)
    confirm(f"Delete profile {name} and its key from this machine?", yes=yes)
    had_key = bool(saved.profiles.pop(name).key)
    if saved.default == name:
        saved.default = ""
    saved.save()
    hint = " Its key stays valid until it expires or `muster auth keys revoke` revokes it." if had_key else ""
    say(f"Profile {name} is deleted.{hint}")


def default_profile_message(saved: Profiles, name: str) -> str:
    """Return a message that `name` is the default profile now.

    The message also contains the previous default, the command that restores this default, and the name of an
    environment variable that overrides the default.
    """
    back = f"`muster profile use {saved.before}`" if saved.before else "`muster profile use --none`"
    was = f"it was {saved.before} before" if saved.before else "there was none before"
    text = f"Profile {name} (in {profiles_file()}) is the default now."
    if saved.before != name:
        text = f"{text[:-1]}; {was}. {back} changes back."
    if variable := overriding_variable():
        text += f"\n{variable} is set in this shell and overrides it: unset the variable, or give --profile {name}."
    return text


def _row(saved: Profiles, name: str) -> Row:
    profile = saved.profiles[name]
    key = masked(profile.key)
    row: dict[str, Any] = {"name": name, "default": name == saved.default, "url": profile.url, "key": key}
    return row


def masked(key: str) -> str | None:
    """Return a masked key: `mk_<id>_…` for a Muster key, `…` for any other key, None for an empty key."""
    if not key:
        return None
    parts = key.split("_")
    if parts[0] == "mk" and len(parts) > 2:  # noqa: PLR2004 - mk_<id>_<secret>
        return "_".join((*parts[:-1], "…"))
    return "…"

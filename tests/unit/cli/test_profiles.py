"""Saved profiles: the choice of an API, and the secrecy of keys."""

import stat
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from muster.cli.app import muster
from muster.cli.client.profiles import Profile, Profiles, profiles_file, read_profiles
from muster.cli.client.target import TargetOptions, find_target
from muster.cli.commands.profile import masked
from muster.embedded.ready import Ready

SECRET = "mk_01jd0000000000000000000000_abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(autouse=True)
def own_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MUSTER_API_URL", "MUSTER_API_KEY", "MUSTER_PROFILE", "MUSTER_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.fixture
def two() -> Profiles:
    kept = Profiles("home", {"home": Profile("http://home", SECRET), "work": Profile("https://work", "k2")})
    kept.save()
    return kept


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """The data directory of a stack on this machine."""
    ready = Ready(
        **dict.fromkeys(("gateway_url", "nats_url", "database_url", "version"), ""),
        api_url="http://ready",
        admin_key="k0",
        pids={},
        pid=1,
        data_dir=str(tmp_path),
    )
    ready.write(tmp_path / "ready.json")
    return tmp_path


def told(*arguments: str) -> tuple[int, str]:
    ended = CliRunner().invoke(muster, ["profile", *arguments])
    return ended.exit_code, ended.output


def test_saved_profiles_are_read_back_and_private_to_their_owner(two: Profiles):
    assert read_profiles() == two
    assert stat.S_IMODE(profiles_file().stat().st_mode) == 0o600
    assert SECRET not in repr(two)


@pytest.mark.parametrize(
    ("env", "options", "meant"),
    [
        ({}, {}, ("http://home", SECRET)),
        ({"MUSTER_PROFILE": "work"}, {}, ("https://work", "k2")),
        ({"MUSTER_API_KEY": "k3"}, {}, ("http://home", "k3")),
        ({"MUSTER_API_URL": "http://env", "MUSTER_API_KEY": "k3"}, {}, ("http://env", "k3")),
        ({"MUSTER_API_URL": "http://env", "MUSTER_API_KEY": "k3"}, {"profile": "work"}, ("https://work", "k2")),
        ({"MUSTER_PROFILE": "home"}, {"profile": "work", "key": "k4"}, ("https://work", "k4")),
        ({"MUSTER_API_URL": "http://env"}, {"url": "http://option", "key": "k5"}, ("http://option", "k5")),
        ({"MUSTER_API_KEY": "k3"}, {"url": "http://option"}, ("http://option", "k3")),
        ({"MUSTER_DATA_DIR": "here"}, {}, ("http://ready", "k0")),
        ({"MUSTER_DATA_DIR": "here", "MUSTER_PROFILE": "work"}, {}, ("https://work", "k2")),
        ({"MUSTER_DATA_DIR": "here"}, {"profile": "work"}, ("https://work", "k2")),
        ({"MUSTER_API_URL": "http://env", "MUSTER_API_KEY": "k3"}, {"data": "here"}, ("http://ready", "k0")),
    ],
)
def test_most_specific_source_of_the_url_is_used(
    two: Profiles,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    env: dict[str, str],
    options: dict[str, Any],
    meant: tuple[str, str],
):
    for name, value in env.items():
        monkeypatch.setenv(name, str(here) if value == "here" else value)

    given: dict[str, Any] = {option: here if value == "here" else value for option, value in options.items()}
    found = find_target(TargetOptions(**given))

    assert (found.url, found.key) == meant


def test_a_profiles_key_is_never_sent_to_another_url(two: Profiles):
    with pytest.raises(SystemExit) as refused:
        find_target(TargetOptions("http://elsewhere"))
    assert refused.value.code == 4

    assert told("add", "home", "--url", "http://elsewhere")[0] == 0
    assert read_profiles().profiles["home"] == Profile("http://elsewhere", "")


def test_no_command_prints_a_key(two: Profiles):
    shown = [told(*words)[1] for words in (["list"], ["show"], ["show", "home", "-o", "json"], ["list", "-o", "yaml"])]

    assert all("http://home" in text and "abcdefgh" not in text for text in shown)


@pytest.mark.parametrize(
    ("key", "shown"), [("", None), ("abc.def.ghi", "…"), ("mk_id_secret", "mk_id_…"), ("mk_x", "…")]
)
def test_masked_key_contains_only_its_public_part(key: str, shown: str | None):
    assert masked(key) == shown


def test_profiles_are_used_and_removed(two: Profiles):
    assert told("use", "work")[0] == 0
    assert find_target().url == "https://work"
    assert told("use", "nope")[0] == 3
    assert told("remove", "work")[0] == 2, "nobody is there to ask"
    assert told("remove", "work", "--yes")[0] == 0
    assert (read_profiles().default, set(read_profiles().profiles)) == ("", {"home"})
    assert told("add", "a/b", "--url", "http://x")[0] == 2
    assert told("add", "ok", "--url", "x")[0] == 2


def test_message_about_a_new_default_names_the_old_one_and_overriding_variables(
    two: Profiles, monkeypatch: pytest.MonkeyPatch
):
    used = told("use", "work")[1]
    assert "Profile work" in used
    assert "it was home before. `muster profile use home` changes back" in used
    assert "MUSTER_DATA_DIR" not in used
    monkeypatch.setenv("MUSTER_DATA_DIR", "/elsewhere")
    assert (
        "MUSTER_DATA_DIR is set in this shell and overrides it: unset the variable, or give --profile home"
        in told("use", "home")[1]
    )
    assert told("use", "--none")[0] == 0
    assert read_profiles().default == ""
    assert told("use")[0] == 2


@pytest.mark.parametrize(
    ("env", "options", "words"),
    [
        ({}, {}, ("profile home, the default",) * 2),
        ({"MUSTER_PROFILE": "work"}, {}, ("profile work (MUSTER_PROFILE)",) * 2),
        ({"MUSTER_API_KEY": "k3"}, {}, ("profile home, the default", "MUSTER_API_KEY")),
        ({"MUSTER_API_URL": "http://env"}, {"key": "k"}, ("MUSTER_API_URL", "--key")),
        ({"MUSTER_DATA_DIR": "here"}, {}, ("the stack in {here} (MUSTER_DATA_DIR)",) * 2),
    ],
)
def test_sources_of_the_url_and_the_key_are_known(
    two: Profiles,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    env: dict[str, str],
    options: dict[str, Any],
    words: tuple[str, str],
):
    for name, value in env.items():
        monkeypatch.setenv(name, str(here) if value == "here" else value)

    found = find_target(TargetOptions(**options))

    assert (found.url_source.words, found.key_source.words) == tuple(word.format(here=here) for word in words)


def test_two_flags_that_select_an_api_are_refused(two: Profiles):
    with pytest.raises(click.UsageError, match="--url and --profile each select an API"):
        find_target(TargetOptions("http://x", profile="work"))


def test_login_to_another_api_does_not_overwrite_the_profile_in_use(two: Profiles):
    ended = CliRunner().invoke(muster, ["auth", "login", "--url", "http://elsewhere"], input="k9\n")

    assert (ended.exit_code, read_profiles()) == (2, two)
    assert "profile home has the URL http://home, not http://elsewhere. Give --profile NAME" in ended.output


def test_readable_or_invalid_profiles_file_is_reported(two: Profiles):
    profiles_file().chmod(0o644)
    assert "chmod 600" in told("list")[1]
    profiles_file().write_text("default = [")
    assert told("list")[0] == 2

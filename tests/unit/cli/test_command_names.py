"""Short names, suggestions for mistyped names, `muster help` and shell completion, with click's own parser."""

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner, Result

from muster.cli.app import muster
from muster.cli.console.command_group import CommandGroup
from tests.unit.cli.test_options import groups


def run(*words: str, **env: str) -> Result:
    return CliRunner().invoke(muster, words, env=env, prog_name="muster")


@pytest.mark.parametrize(
    ("words", "full"),
    [
        ("task ls --help", "muster task list"),
        ("agent ls --help", "muster agent list"),
        ("agent rm --help", "muster agent delete"),
        ("auth users rm --help", "muster auth users delete"),
        ("profile rm --help", "muster profile remove"),
        ("profile ls -h", "muster profile list"),
        ("sandbox ls -h", "muster sandbox list"),
    ],
)
def test_short_name_calls_the_command_with_the_full_name(words: str, full: str) -> None:
    assert run(*words.split()).output.startswith(f"Usage: {full} [OPTIONS]")


def test_every_group_has_short_names_and_suggestions() -> None:
    assert [name for name, group in groups() if not isinstance(group, CommandGroup)] == []


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("upp", "'up'"),
        ("stauts", "'status'"),
        ("task sumbit", "'submit'"),
        ("agent lits", "'list'"),
        ("help agent lits", "'list'"),
        ("task list --stat running", "'--state'"),
        ("up --detatch", "'--detach'"),
        ("restart gaurdian", "'guardian'"),
    ],
)
def test_mistyped_word_is_refused_with_the_word_that_was_meant(words: str, meant: str) -> None:
    result = run(*words.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert meant in result.stderr.rpartition("Error:")[2]


def test_word_without_a_similar_command_gets_no_suggestion() -> None:
    assert "Did you mean" not in run("xylophone").stderr


def test_help_prints_the_help_of_any_command_and_without_words_that_of_muster() -> None:
    assert run("help").output == run("--help").output
    for words in ("task", "task submit", "auth keys create", "up"):
        assert run("help", *words.split()).output == run(*words.split(), "--help").output
    assert run("help", "agent", "rm").output == run("agent", "delete", "--help").output
    too_many = run("help", "up", "down")
    assert (too_many.exit_code, "no subcommands" in too_many.stderr) == (2, True)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_asks_muster_and_names_it(shell: str) -> None:
    script = run("completion", shell).output
    assert f"_MUSTER_COMPLETE={shell}_complete" in script
    assert "muster" in script


def completed(words: str) -> list[str]:
    asked = {"_MUSTER_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    return [line.partition(",")[2] for line in run(**asked).output.splitlines()]


def test_commands_options_and_values_are_completed() -> None:
    assert completed("muster res") == ["restart"]
    assert set(completed("muster task ")) >= {"submit", "list"}
    assert completed("muster task list --stat") == ["--state"]
    assert completed("muster restart ga") == ["gateway"]
    assert completed("muster task list --state runn") == ["running"]


def test_script_for_bash_is_a_program_that_bash_runs() -> None:
    done = subprocess.run(
        ["bash", "-n"], input=run("completion", "bash").output, text=True, capture_output=True, check=True
    )
    assert done.stderr == ""


def test_completion_of_a_command_imports_no_command() -> None:
    env = {**os.environ, "_MUSTER_COMPLETE": "bash_complete", "COMP_WORDS": "muster s", "COMP_CWORD": "1"}
    code = (
        "import sys, muster.cli.app as a\n"
        "try: a.muster.main(prog_name='muster')\n"
        "except SystemExit: print([m for m in sys.modules if m.startswith('muster.cli.commands') or m == 'rich'])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "plain,status\nplain,sandbox\n[]\n"

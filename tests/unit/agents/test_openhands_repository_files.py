"""The instructions of a repository are copied from git's objects, within limits, and nothing outside of it is read."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from muster.agents.openhands.repository_files import LONGEST_FILE, MOST_BYTES, copy_instructions

Commit = Callable[[dict[str, str | Path]], Path]


@pytest.fixture
def commit(tmp_path: Path) -> Commit:
    """Make a repository with files; a value that is a path makes a symbolic link to it."""

    def made(content: dict[str, str | Path]) -> Path:
        repository = tmp_path / "repository"
        for name, value in content.items():
            place = repository / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(value) if isinstance(value, Path) else place.write_text(value)
        for command in (["init", "-q"], ["add", "-A"]):
            subprocess.run(["git", *command], cwd=repository, check=True)
        return repository

    return made


def copied(folder: Path | None) -> dict[str, str]:
    """Return the texts of the copied files; a link reads as its target."""
    assert folder is not None
    paths = (path for path in folder.rglob("*") if ".git" not in path.parts and (path.is_file() or path.is_symlink()))
    return {
        str(path.relative_to(folder)): f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
        for path in paths
    }


def test_instructions_and_skills_are_copied_and_other_files_are_not(commit: Commit, tmp_path: Path) -> None:
    repository = commit(
        {
            "AGENTS.md": "top",
            "server/agents.MD": "nested",
            ".cursorrules": "rules",
            ".openhands/microagents/repo.md": "micro",
            ".agents/skills/pdf/SKILL.md": "---\nname: pdf\n---\nskill",
            ".agents/skills/pdf/scripts/run.sh": "#!/bin/sh",
            ".agents/skills/pdf/.mcp.json": "{}",
            ".openhands/plugins/evil/hooks/hooks.json": "{}",
            "README.md": "not for agents",
            "src/agents.md.py": "code",
        }
    )
    assert copied(copy_instructions(repository, tmp_path / "copy")) == {
        "AGENTS.md": "top",
        "server/agents.MD": "nested",
        ".cursorrules": "rules",
        ".openhands/microagents/repo.md": "micro",
        ".agents/skills/pdf/SKILL.md": "---\nname: pdf\n---\nskill",
        ".agents/skills/pdf/scripts/run.sh": "",
    }


def test_links_stay_inside_the_repository(commit: Commit, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    repository = commit(
        {
            "CLAUDE.md": "guide",
            "AGENTS.md": Path("CLAUDE.md"),
            "docs/AGENTS.md": Path("../guide/agents.txt"),
            "guide/agents.txt": "elsewhere",
            ".agents/skills": Path("../.claude/skills"),
            ".claude/skills/pdf/SKILL.md": "skill",
            "a/AGENTS.md": secret,
            "b/AGENTS.md": Path("../../secret"),
            "c/AGENTS.md": Path("../.git/config"),
        }
    )
    files = copied(copy_instructions(repository, tmp_path / "copy"))
    assert files["AGENTS.md"] == "-> CLAUDE.md"
    assert (tmp_path / "copy" / ".agents" / "skills" / "pdf" / "SKILL.md").read_text() == "skill"
    assert not {name for name in files if name.startswith(("a/", "b/", "c/"))}
    assert "secret" not in files.values()


def test_files_are_limited(commit: Commit, tmp_path: Path) -> None:
    header = "---\na: &a [x]\nb: [*a, *a]\n---\n"
    many: dict[str, str | Path] = {f".openhands/skills/s{number:02}.md": "y" * LONGEST_FILE for number in range(12)}
    repository = commit({"AGENTS.md": "x" * (LONGEST_FILE + 1), "GEMINI.md": "z" * (2 << 20), **many})
    (repository / ".openhands" / "skills" / "alias.md").write_text(header)
    subprocess.run(["git", "add", "-A"], cwd=repository, check=True)

    files = copied(copy_instructions(repository, tmp_path / "copy"))

    assert files["AGENTS.md"].endswith(
        f"[Only the first {LONGEST_FILE} of {LONGEST_FILE + 1} bytes of this file are shown.]\n"
    )
    assert not {"GEMINI.md", ".openhands/skills/alias.md"} & files.keys()
    assert MOST_BYTES - LONGEST_FILE <= sum(map(len, files.values())) <= MOST_BYTES + 100


def test_file_whose_name_is_not_utf_8_is_left_out(commit: Commit, tmp_path: Path) -> None:
    unnamed = os.fsdecode(b"a\xff.md")
    names = [f".openhands/microagents/{unnamed}", f".agents/skills/{unnamed}/SKILL.md"]
    repository = commit({"AGENTS.md": "top", **dict.fromkeys(names, "text")})
    assert copied(copy_instructions(repository, tmp_path / "copy")) == {"AGENTS.md": "top"}


def test_relaunch_reads_the_same_instructions(commit: Commit, tmp_path: Path) -> None:
    repository = commit({"AGENTS.md": "as it was cloned"})
    os.mkfifo(repository / ".cursorrules")
    copy_instructions(repository, tmp_path / "copy")
    (repository / "AGENTS.md").write_text("changed by the agent")
    subprocess.run(["git", "add", "AGENTS.md"], cwd=repository, check=True)
    assert copied(copy_instructions(repository, tmp_path / "copy")) == {"AGENTS.md": "as it was cloned"}


def test_repository_without_instructions_gives_nothing(commit: Commit, tmp_path: Path) -> None:
    assert copy_instructions(commit({"a.py": "1"}), tmp_path / "copy") is None


def test_folder_that_is_no_repository_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="git ls-files failed"):
        copy_instructions(tmp_path, tmp_path / "copy")

"""`muster up` finds the folders again that it was told of."""

from pathlib import Path

import pytest

from muster.cli.commands.stack.saved_folders import FILE, StackFolders


def test_what_up_was_told_counts_the_next_time_unless_it_is_told_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    mine, theirs, gone = (tmp_path / name for name in ("mine", "theirs", "gone"))
    for place in (mine, theirs, gone):
        place.mkdir()
    StackFolders(packages=(mine, gone), repo_root=(mine,)).completed_from(tmp_path).save(tmp_path)
    gone.rmdir()
    assert capsys.readouterr().err == ""

    found = StackFolders(repo_root=(theirs,)).completed_from(tmp_path)

    assert found == StackFolders(packages=(mine,), repo_root=(theirs,))
    assert capsys.readouterr().err.splitlines() == [
        f"Used as in the last start: --packages {mine}",
        f"Left out, because the folder does not exist any more: --packages {gone}",
    ]
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


def test_what_cannot_be_read_is_told_with_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / FILE).write_text("no")

    with pytest.raises(SystemExit):
        StackFolders().completed_from(tmp_path)

    assert "remove it" in capsys.readouterr().err

"""`muster up` uses the folders of its last start again."""

from pathlib import Path

import pytest

from muster.cli.commands.stack.saved_folders import FILE, StackFolders


def test_folders_of_up_are_used_again_unless_new_ones_are_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
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
        f"Omitted, because the folder does not exist any more: --packages {gone}",
    ]
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


def test_unreadable_file_is_reported_with_advice(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / FILE).write_text("no")

    with pytest.raises(SystemExit):
        StackFolders().completed_from(tmp_path)

    assert "remove it" in capsys.readouterr().err

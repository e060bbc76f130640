"""Copies on the gateway's host are removed only if nothing needs them."""

import os
from pathlib import Path

from muster.common.ids import new_id
from muster.sandbox_gateway.providers.leftovers import CODE_KEPT_S, UNUSED_S, remove_old_code, remove_staged

NOW_S = 2_000_000_000.0


def folder(above: Path, name: str, *, unused_s: float) -> Path:
    made = above / name
    (made / "inner").mkdir(parents=True)
    (made / "inner" / "file").touch()
    os.utime(made, (NOW_S - unused_s, NOW_S - unused_s))
    return made


def test_staged_files_of_ended_sandboxes_are_removed_and_all_others_kept(tmp_path: Path) -> None:
    ended, existing, fresh = new_id("sbx"), new_id("sbx"), new_id("sbx")
    folder(tmp_path, ended, unused_s=UNUSED_S + 1)
    kept = [
        folder(tmp_path, existing, unused_s=UNUSED_S + 1),
        folder(tmp_path, fresh, unused_s=UNUSED_S - 1),
        folder(tmp_path, "own-files", unused_s=UNUSED_S + 1),
    ]
    outside = folder(tmp_path.parent / f"{tmp_path.name}-outside", "a", unused_s=UNUSED_S + 1)
    (tmp_path / new_id("sbx")).symlink_to(outside)
    assert remove_staged(tmp_path, exists=lambda one: one == existing, now_s=NOW_S) == [ended]
    assert not (tmp_path / ended).exists()
    assert all((one / "inner" / "file").exists() for one in [*kept, outside])
    assert remove_staged(tmp_path / "missing", exists=lambda _: False, now_s=NOW_S) == []


def test_code_is_removed_if_its_copy_was_cut_or_if_it_is_not_used_for_weeks(tmp_path: Path) -> None:
    used, old, cut, being_made = "a" * 64, "b" * 64, f"{'c' * 64}.01234567", f"{'d' * 64}.01234567"
    folder(tmp_path, used, unused_s=CODE_KEPT_S - 1)
    folder(tmp_path, old, unused_s=CODE_KEPT_S + 1)
    folder(tmp_path, cut, unused_s=UNUSED_S + 1)
    folder(tmp_path, being_made, unused_s=UNUSED_S - 1)
    assert remove_old_code(tmp_path, now_s=NOW_S) == [old, cut]
    assert sorted(one.name for one in tmp_path.iterdir()) == [used, being_made]

"""Paths stay in the workspace, output is shown by whole lines, and the list of recorded steps may be forged."""

import pytest

from muster.common.faults import InvalidMessage
from muster.sandbox_gateway.files.domain import path_in, step_at, transfer_key
from muster.sandbox_gateway.sandboxes.domain.tokens import whole_lines

A, B = "a" * 40, "b" * 64


def test_path_is_relative_to_the_workspace() -> None:
    assert path_in("/s/workspace", "src/./a.py") == "/s/workspace/src/a.py"


@pytest.mark.parametrize("path", ["", ".", "/etc/passwd", "../a", "a/../../b", "a/", "a\0b"])
def test_path_outside_of_the_workspace_is_refused(path: str) -> None:
    with pytest.raises(InvalidMessage) as refusal:
        path_in("/s/workspace", path)
    assert refusal.value.field == "$.path"


@pytest.mark.parametrize(("at", "step"), [(None, (12, B)), (12, (12, B)), (11, (3, A)), (3, (3, A)), (2, None)])
def test_step_is_the_last_one_until_the_event(at: int | None, step: tuple[int, str] | None) -> None:
    listed = f"3 {A}\n12 {B}\nwarning: 99 {A}\n7 --output=/x\n-1 {A}\n8 {A} {A}\n"
    assert step_at(listed, at) == step


def test_incomplete_line_is_shown_when_no_line_can_follow() -> None:
    assert whole_lines(b"one\ntwo", ended=False) == b"one\n"
    assert whole_lines(b"two", ended=False) == b""
    assert whole_lines(b"one\ntwo", ended=True) == b"one\ntwo"


def test_transfers_of_two_paths_never_have_the_same_key() -> None:
    keys = {transfer_key(path, name) for path in ("a", "b", "ab") for name in ("t1", "bt1", "t2")}
    assert len(keys) == 9

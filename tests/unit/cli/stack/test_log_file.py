"""The log of a part is read from its end and then followed, also over a rotation. The files are real."""

import asyncio
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from muster.cli.commands.stack import folder_watch
from muster.cli.commands.stack.folder_watch import watched_folder
from muster.cli.commands.stack.log_file import LogFile

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


def line(number: int) -> str:
    return f'{{"event":"e{number}","timestamp":"{(NOON + timedelta(minutes=number)).isoformat()}"}}'


def write(path: Path, *lines: str, end: str = "\n") -> None:
    with path.open("a") as file:
        file.write("\n".join(lines) + end)


def texts(log: LogFile, most: int | None = None, since: datetime | None = None) -> list[str]:
    return [entry.text for entry in log.last_entries(most, since)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api.log"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[LogFile]:
    with closing(LogFile("api", tmp_path)) as log:
        yield log


def test_last_lines_are_returned_in_order_also_if_they_are_longer_than_a_block(path: Path, log: LogFile) -> None:
    long = "x" * 200_000
    write(path, *(line(number) for number in range(50)), long, line(51))
    assert texts(log, 3) == [line(49), long, line(51)]
    assert len(texts(log)) == 52


def test_missing_and_empty_files_have_no_lines(path: Path, log: LogFile) -> None:
    assert (texts(log, 5), log.new_entries()) == ([], [])
    path.touch()
    assert (texts(log, 5), log.new_entries()) == ([], [])
    write(path, line(1))
    assert [entry.text for entry in log.new_entries()] == [line(1)]


def test_lines_since_a_time_include_a_traceback_after_it_but_not_one_before(path: Path, log: LogFile) -> None:
    write(path, line(1), "Traceback of e1", line(2), "Traceback of e2", line(3))
    assert texts(log, since=NOON + timedelta(minutes=2)) == [line(2), "Traceback of e2", line(3)]
    assert texts(log, since=NOON + timedelta(minutes=9)) == []


def test_lines_of_the_previous_run_come_before_those_of_this_run(path: Path, log: LogFile) -> None:
    write(path.with_suffix(".log.1"), line(1), line(2))
    write(path, line(3))
    assert texts(log, 2) == [line(2), line(3)]
    assert texts(log) == [line(1), line(2), line(3)]


def test_each_line_is_followed_once_although_the_file_is_replaced_or_emptied(path: Path, log: LogFile) -> None:
    write(path, line(1))
    write(path, line(2)[:10], end="")  # A line that is being written.
    assert texts(log, 5) == [line(1)]
    write(path, line(2)[10:])
    assert [entry.text for entry in log.new_entries()] == [line(2)]

    write(path, line(3))
    path.replace(path.with_suffix(".log.1"))
    write(path.with_suffix(".log.1"), line(4))  # The old process writes its last line after the rotation.
    write(path, line(5))
    assert [entry.text for entry in log.new_entries()] == [line(3), line(4), line(5)]

    path.write_text(f"{line(6)}\n"[:20])
    assert log.new_entries() == []
    write(path, f"{line(6)}\n"[20:], end="")
    assert [entry.text for entry in log.new_entries()] == [line(6)]
    assert log.new_entries() == []


def not_watched(_: Path) -> None:
    return None


@pytest.mark.parametrize("watchable", [True, False])
async def test_change_of_a_file_in_the_folder_wakes_the_follower(
    path: Path, monkeypatch: pytest.MonkeyPatch, watchable: bool
) -> None:
    if not watchable:  # The kernel limits the number of watches.
        monkeypatch.setattr(folder_watch, "_inotify", not_watched)
        monkeypatch.setattr(folder_watch, "POLL_S", 0.01)
    with watched_folder(path.parent) as watch:
        async with asyncio.timeout(30):
            for write_more in (
                lambda: write(path, "new"),
                lambda: write(path, "more"),
                lambda: path.rename(f"{path}.1"),
            ):
                write_more()
                await watch.changed()

"""Parts of the shim that need no process: orders to the keeper, and files on disk."""

from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muster.shim import output
from muster.shim.journal import JournalEntry, ProcessJournal
from muster.shim.keeper import KeeperOrder
from muster.shim.output import OutputFile
from muster.shim.protocol import ProcessRecord

text = st.binary(max_size=8).filter(lambda value: b"\0" not in value)
name = text.filter(lambda value: value and b"=" not in value)


@given(
    cwd=text,
    argv=st.lists(text, min_size=1),
    limits=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 1 << 62))),
    env=st.dictionaries(name, text),
)
def test_order_of_the_shim_reaches_the_keeper_unchanged(
    cwd: bytes, argv: list[bytes], limits: list[tuple[int, int]], env: dict[bytes, bytes]
) -> None:
    read = KeeperOrder.decode(KeeperOrder(cwd, argv, limits, env).encode())
    assert (read.cwd, read.argv, read.limits, read.env) == (cwd, argv, limits, env)


@given(
    pieces=st.lists(st.lists(st.sampled_from(b"\na\0"), min_size=1, max_size=40).map(bytes), max_size=20),
    offset=st.integers(-60, 400),
    limit=st.integers(1, 60),
)
def test_stored_output_keeps_its_end_and_the_offset_of_it(pieces: list[bytes], offset: int, limit: int) -> None:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as directory:
        patch.setattr(output, "SEGMENT_BYTES", 32)
        kept = OutputFile(Path(directory) / "k.out")
        for piece in pieces:
            kept.append(piece)
        whole = b"".join(pieces)
        page = kept.page(offset, limit)
        start = page.next_offset - len(page.body)
        everything = kept.page(0, 10_000).body
        kept.remove()

        assert page.body == whole[start : start + limit]
        assert whole.endswith(everything)
        assert min(len(whole), 32) <= len(everything) <= 2 * (32 + 40)
        wanted = offset if offset >= 0 else max(0, len(whole) + offset)
        assert start == min(max(wanted, len(whole) - len(everything)), len(whole))
        known = page.next_offset == len(whole) or start == len(whole) - len(everything)
        assert page.lines_before == (whole[:start].count(b"\n") if known else -1)
        assert not list(Path(directory).iterdir())


def test_a_journal_reads_past_a_torn_line_and_never_reuses_a_number(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    moment = datetime(2026, 11, 21, tzinfo=UTC)
    record = ProcessRecord(key="kept", state="running", isolation="plain", started_at=moment)
    journal = ProcessJournal(path)
    journal.write(JournalEntry(record=record))
    journal.write(
        JournalEntry(record=ProcessRecord(key="k", state="exited", isolation="plain", started_at=moment, exit_no=9))
    )
    journal.write(JournalEntry(removed="k"))
    journal.close()
    with path.open("ab") as file:
        file.write(b'{"record":{"key":"torn","sta')
    for _ in range(2):  # The second opening reads the file that the first has shortened.
        journal = ProcessJournal(path)
        journal.close()
        assert (journal.records, journal.exits) == ({"kept": record}, 9)

"""A file is put together from parts, each of which may be sent twice, and an unfinished transfer is removed."""

import hashlib
from pathlib import Path

import pytest

from muster.common.contracts.sandbox_files import LARGEST_FILE, LARGEST_PART
from muster.common.faults import Conflict, InvalidMessage, TooMany
from muster.sandbox_gateway.files.store import ABANDONED_S, MOST_TRANSFERS, FileTransfers


async def content(transfers: FileTransfers, transfer_id: str) -> bytes:
    return b"".join([chunk async for chunk in transfers.chunks(transfer_id)])


async def test_parts_make_the_file_and_a_repeated_part_changes_nothing(tmp_path: Path) -> None:
    transfers = FileTransfers(tmp_path, "uploads")
    assert [transfers.append("t", 0, b"one"), transfers.append("t", 3, b"two"), transfers.append("t", 3, b"two")] == [
        3,
        6,
        6,
    ]
    assert await content(transfers, "t") == b"onetwo"
    transfers.check("t", hashlib.sha256(b"onetwo").hexdigest())
    transfers.append("t", 0, b"new")
    assert await content(transfers, "t") == b"new"


def test_part_after_a_missing_part_is_refused(tmp_path: Path) -> None:
    transfers = FileTransfers(tmp_path, "uploads")
    transfers.append("t", 0, b"one")
    with pytest.raises(Conflict, match="expects offset 3"):
        transfers.append("t", 4, b"x")
    with pytest.raises(Conflict, match="expects offset 0"):
        transfers.append("other", 4, b"x")


def test_file_with_another_digest_is_removed(tmp_path: Path) -> None:
    transfers = FileTransfers(tmp_path, "uploads")
    transfers.append("t", 0, b"cut in half")
    with pytest.raises(InvalidMessage) as refusal:
        transfers.check("t", hashlib.sha256(b"whole").hexdigest())
    assert refusal.value.field == "$.sha256"
    with pytest.raises(Conflict):
        transfers.part("t", 0)


def test_file_that_becomes_too_large_is_removed(tmp_path: Path) -> None:
    transfers = FileTransfers(tmp_path, "uploads")
    transfers.append("t", 0, b"x")
    with pytest.raises(InvalidMessage, match="larger than 64 MiB"):
        transfers.append("t", LARGEST_FILE, b"x")
    with pytest.raises(Conflict):
        transfers.part("t", 0)


def test_parts_of_a_copy_are_read_in_order(tmp_path: Path) -> None:
    transfers = FileTransfers(tmp_path, "uploads")
    transfers.append("t", 0, b"x" * (LARGEST_PART + 5))
    assert transfers.part("t", LARGEST_PART) == (b"xxxxx", LARGEST_PART + 5)


def test_abandoned_transfers_make_room_and_too_many_others_are_refused(tmp_path: Path) -> None:
    later = FileTransfers(
        tmp_path, "uploads", lambda: (tmp_path / "transfers" / "uploads").stat().st_mtime + ABANDONED_S + 1
    )
    transfers = FileTransfers(tmp_path, "uploads")
    for number in range(MOST_TRANSFERS):
        transfers.append(f"t{number}", 0, b"x")
    with pytest.raises(TooMany):
        transfers.append("one-more", 0, b"x")
    transfers.append("t0", 0, b"again")
    assert FileTransfers(tmp_path, "copies").append("of-a-reader", 0, b"x") == 1
    assert later.append("one-more", 0, b"x") == 1
    assert [place.name for place in (tmp_path / "transfers" / "uploads").iterdir()] == ["one-more"]


async def test_upload_and_copy_of_one_name_are_two_files(tmp_path: Path) -> None:
    uploads, copies = FileTransfers(tmp_path, "uploads"), FileTransfers(tmp_path, "copies")
    uploads.append("t", 0, b"upload")
    copies.append("t", 0, b"copy")
    assert (await content(uploads, "t"), await content(copies, "t")) == (b"upload", b"copy")


def test_completed_uploads_are_remembered_until_a_new_one_begins_and_only_the_newest(tmp_path: Path) -> None:
    transfers = FileTransfers(tmp_path, "uploads")
    for number in range(MOST_TRANSFERS + 3):
        transfers.append(f"t{number}", 0, b"x")
        transfers.complete(f"t{number}", "digest")
    last = f"t{MOST_TRANSFERS + 2}"
    assert transfers.was_completed(last, "digest")
    assert not transfers.was_completed(last, "other")
    assert not transfers.was_completed("t0", "digest")
    transfers.append(last, 0, b"again")
    assert not transfers.was_completed(last, "digest")
    assert len(list((tmp_path / "transfers" / "uploads").iterdir())) <= MOST_TRANSFERS + 2

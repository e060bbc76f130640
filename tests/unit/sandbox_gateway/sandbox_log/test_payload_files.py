"""A received payload is checked and redacted in files, with the result that an event's body would have."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from muster.common.contract import encode
from muster.common.faults import InvalidMessage, TooLarge, Unavailable
from muster.sandbox_gateway.sandbox_log.adapters import payload_files
from muster.sandbox_gateway.sandbox_log.adapters.payload_files import MOST_SECRETS, PayloadFiles
from muster.sandbox_gateway.sandbox_log.domain.redaction import SecretRedactor

PIECE = b"x" * 1024
TOKEN = "ghp_" + "a1B2" * 10


async def pieces(body: bytes) -> AsyncGenerator[bytes]:
    for at in range(0, len(body), 70_001):
        yield body[at : at + 70_001]


async def stored(folder: Path, body: bytes) -> tuple[bytes, str, bool]:
    files = PayloadFiles(folder, SecretRedactor(dict, lambda: 0.0))
    with files.receiving("sbx_1"), files.file() as received, files.file() as clean:
        payload = await files.checked("sbx_1", pieces(body), hashlib.sha256(body).hexdigest(), received, clean)
        with payload.body as content:
            return content[:], payload.sha256, payload.redacted


async def test_payload_has_the_same_secrets_replaced_as_an_event(tmp_path: Path) -> None:
    texts = [TOKEN, "é\n" * 600_000, f'a "quoted" {TOKEN}', f"\n{TOKEN}\\npm_{'x' * 36}", "commit " + "a" * 40]
    body = encode({"texts": texts, "key": "https://user:hunter2hunter2@host/"})
    content, sha256, redacted = await stored(tmp_path, body)
    assert content == SecretRedactor(dict, lambda: 0.0).redacted(body) != body
    assert (sha256, redacted) == (hashlib.sha256(content).hexdigest(), True)
    assert await stored(tmp_path, encode(texts[1])) == (
        encode(texts[1]),
        hashlib.sha256(encode(texts[1])).hexdigest(),
        False,
    )
    assert list(tmp_path.iterdir()) == []


async def test_payload_with_too_many_secrets_or_too_many_levels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TooLarge, match="secrets"):
        await stored(tmp_path, encode([TOKEN] * (MOST_SECRETS + 1)))
    with pytest.raises(InvalidMessage):
        await stored(tmp_path, b"[" * 100_000 + b"]" * 100_000)


async def stopped_after(
    number: int, piece: bytes, arrived: asyncio.Event, go_on: asyncio.Event
) -> AsyncGenerator[bytes]:
    """Yield a piece many times, then nothing until `go_on`, then the piece once more."""
    for _ in range(number):
        yield piece
    arrived.set()
    await go_on.wait()
    yield piece


class Uploads:
    """Uploads that wait before their last piece, and whose digest is wrong."""

    def __init__(self, folder: Path) -> None:
        self._files = PayloadFiles(folder, SecretRedactor(dict, lambda: 0.0))
        self.go_on = asyncio.Event()

    async def upload(self, sandbox_id: str, number: int, arrived: asyncio.Event) -> None:
        with self._files.receiving(sandbox_id), self._files.file() as received, self._files.file() as clean:
            sent = stopped_after(number, PIECE, arrived, self.go_on)
            await self._files.checked(sandbox_id, sent, "another digest", received, clean)

    async def begun(self, sandbox_id: str, number: int) -> asyncio.Task[None]:
        arrived = asyncio.Event()
        upload = asyncio.create_task(self.upload(sandbox_id, number, arrived))
        await arrived.wait()
        return upload


async def test_only_bytes_that_have_arrived_count_to_the_bound_of_all_payloads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload_files, "MOST_AT_ONCE", 4 * len(PIECE))
    monkeypatch.setattr(payload_files, "MAX_PAYLOAD_BYTES", 3 * len(PIECE))
    uploads = Uploads(tmp_path)
    slow = [await uploads.begun(f"sbx_{number}", 0) for number in range(4)]
    first = await uploads.begun("sbx_first", 3)
    with pytest.raises(Unavailable, match="another payload"):
        await uploads.upload("sbx_first", 0, asyncio.Event())
    with pytest.raises(Unavailable, match="too many payloads"):
        await uploads.upload("sbx_last", 2, asyncio.Event())
    uploads.go_on.set()
    ended = await asyncio.gather(*slow, first, return_exceptions=True)
    assert [type(fault) for fault in ended] == [InvalidMessage] * 4 + [TooLarge], "each slow one could be completed"
    with pytest.raises(TooLarge, match="over"):
        await uploads.upload("sbx_last", 4, asyncio.Event())

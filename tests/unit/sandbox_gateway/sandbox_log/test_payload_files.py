"""A received payload is checked and redacted in files, with the result that an event's body would have."""

import hashlib
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from muster.common.contract import encode
from muster.common.faults import InvalidMessage, TooLarge, Unavailable
from muster.sandbox_gateway.sandbox_log.adapters.payload_files import MOST_AT_ONCE, MOST_SECRETS, PayloadFiles
from muster.sandbox_gateway.sandbox_log.domain.redaction import SecretRedactor

TOKEN = "ghp_" + "a1B2" * 10


async def pieces(body: bytes) -> AsyncGenerator[bytes]:
    for at in range(0, len(body), 70_001):
        yield body[at : at + 70_001]


async def stored(folder: Path, body: bytes) -> tuple[bytes, str, bool]:
    files = PayloadFiles(folder, SecretRedactor(dict, lambda: 0.0))
    with files.file() as received, files.file() as clean:
        payload = await files.checked(pieces(body), hashlib.sha256(body).hexdigest(), received, clean)
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


def test_payloads_that_arrive_at_the_same_time_are_bounded(tmp_path: Path) -> None:
    files = PayloadFiles(tmp_path, SecretRedactor(dict, lambda: 0.0))
    with files.receiving("sbx_1", MOST_AT_ONCE // 2):
        with pytest.raises(Unavailable), files.receiving("sbx_1", 1):
            pass
        with pytest.raises(Unavailable), files.receiving("sbx_2", MOST_AT_ONCE // 2 + 1):
            pass
        with files.receiving("sbx_2", MOST_AT_ONCE // 2):
            pass
    with files.receiving("sbx_1", MOST_AT_ONCE):
        pass

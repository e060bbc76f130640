"""Receives an uploaded payload in a file on the gateway's host, checks it, and removes its secrets.

The file has no name, so it disappears with the process. The memory of the gateway does not grow with the payload,
except during the check that the payload is JSON, which one thread makes for all sandboxes.
"""

import asyncio
import codecs
import hashlib
import tempfile
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import IO, NamedTuple

import msgspec
import structlog

from muster.common.contracts.worker_api import MAX_PAYLOAD_BYTES
from muster.common.faults import InvalidMessage, TooLarge, Unavailable
from muster.sandbox_gateway.sandbox_log.domain.redaction import SecretRedactor

log = structlog.get_logger()

MOST_SECRETS = 10_000
"""Most texts that are replaced in one payload. Each takes some ten microseconds."""
MOST_AT_ONCE = 1 << 30
"""Most bytes that have arrived of all unfinished payloads. Their files take twice as much."""
_threads = ThreadPoolExecutor(1, "payloads")


class ReceivedPayload(NamedTuple):
    """The content of a payload without secrets, its digest, and whether a secret was replaced."""

    body: mmap
    sha256: str
    redacted: bool


class PayloadFiles:
    """The payloads that this gateway receives at present. Their files are in the directory `folder`.

    Only bytes that have arrived count, so a slow upload does not take the room of others. One sandbox holds at most one
    payload, of at most `MAX_PAYLOAD_BYTES`.
    """

    def __init__(self, folder: Path, redactor: SecretRedactor) -> None:
        self._folder, self._redactor = folder, redactor
        self._receiving: dict[str, int] = {}

    @contextmanager
    def receiving(self, sandbox_id: str) -> Generator[None]:
        """Count the bytes of a payload as they arrive in `checked`, and forget them when the block ends.

        Raises `Unavailable` if the sandbox sends another payload already.
        """
        if sandbox_id in self._receiving:
            raise Unavailable("this sandbox sends another payload already; send one after the other")
        self._receiving[sandbox_id] = 0
        try:
            yield
        finally:
            del self._receiving[sandbox_id]

    @contextmanager
    def file(self) -> Generator[IO[bytes]]:
        """Make a file without a name, which is removed when the block ends."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder) as file:
                yield file
        except OSError as error:
            log.exception("payload cannot be received on this host", folder=str(self._folder))
            raise TooLarge(f"the whole body was not kept: the gateway cannot store it ({error.strerror})") from None

    async def checked(
        self, sandbox_id: str, pieces: AsyncGenerator[bytes], sha256: str, received: IO[bytes], clean: IO[bytes]
    ) -> ReceivedPayload:
        """Write the pieces into `received`, and the content without secrets into `clean` if there are any.

        Called in the block of `receiving`. Raises `InvalidMessage` if the content has another digest or is no JSON in
        UTF-8, `TooLarge` if it is too large or has too many secrets, and `Unavailable` if all unfinished payloads
        together are too large.
        """
        summed, text = hashlib.sha256(), codecs.getincrementaldecoder("utf-8")()
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    self._count(sandbox_id, len(piece))
                    summed.update(piece)
                    text.decode(piece)
                    received.write(piece)
            text.decode(b"", final=True)
        except UnicodeDecodeError:
            raise InvalidMessage("the payload is no text in UTF-8; send the JSON of the event's body") from None
        if summed.hexdigest() != sha256:
            raise InvalidMessage(
                f"the payload that arrived has the digest {summed.hexdigest()}; it was cut or changed on its way"
            )
        redacted = await asyncio.get_running_loop().run_in_executor(_threads, self._redacted, received, clean)
        return ReceivedPayload(_mapped(clean if redacted else received), redacted or sha256, redacted=bool(redacted))

    def _count(self, sandbox_id: str, size: int) -> None:
        # Only this payload is refused. Its bytes are then free, so that the others can be completed.
        if self._receiving[sandbox_id] + size > MAX_PAYLOAD_BYTES:
            raise TooLarge(f"the whole body was not kept: it has over {MAX_PAYLOAD_BYTES} bytes")
        if sum(self._receiving.values()) + size > MOST_AT_ONCE:
            raise Unavailable("the gateway receives too many payloads at the moment; send the same request again")
        self._receiving[sandbox_id] += size

    def _redacted(self, received: IO[bytes], clean: IO[bytes]) -> str | None:
        """Copy the content without its secrets to `clean`, and return the digest. Returns None if there are none."""
        with _mapped(received) as body:
            try:
                msgspec.json.decode(body, type=msgspec.Raw)
            except (msgspec.DecodeError, RecursionError) as error:
                raise InvalidMessage(f"the payload is no JSON: {error}") from None
            if not self._redactor.has_secret(body):
                return None
            summed, replaced = hashlib.sha256(), 0
            for piece, is_secret in self._redactor.pieces(body):
                replaced += is_secret
                if replaced > MOST_SECRETS:
                    raise TooLarge(f"the whole body was not kept: it has over {MOST_SECRETS} secrets")
                summed.update(piece)
                clean.write(piece)
        return summed.hexdigest()


def _mapped(file: IO[bytes]) -> mmap:
    file.flush()
    return mmap(file.fileno(), 0, access=ACCESS_READ)

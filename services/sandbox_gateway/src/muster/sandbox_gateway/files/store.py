"""Keeps the parts of files that are being transferred, on the gateway's host and outside of the sandbox.

Uploads and copies for readers have separate directories, so that neither changes the other or uses its places. A
transfer that is not finished leaves nothing in the sandbox. Its parts are removed when a later transfer begins, or
with the sandbox.
"""

import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

from muster.common.contracts.sandbox_files import LARGEST_FILE, LARGEST_PART
from muster.common.faults import Conflict, InvalidMessage, TooMany

MOST_TRANSFERS = 16
"""Unfinished transfers of one sandbox in one direction."""
ABANDONED_S = 600.0
"""Seconds without a new part, after which a transfer is removed."""
_COMPLETED = ".completed"
_CHUNK = 256 << 10


class FileTransfers:
    """The unfinished transfers of one sandbox in one direction. The methods block.

    Each transfer is a file with a name that the caller chooses, in a directory that only the gateway can write.
    """

    def __init__(
        self, staging: Path, direction: Literal["uploads", "copies"], now: Callable[[], float] = time.time
    ) -> None:
        self._folder, self._now = staging / "transfers" / direction, now

    def append(self, transfer: str, offset: int, body: bytes) -> int:
        """Store a part and return the offset of the next part.

        A part that is stored already is not stored again. Raises `Conflict` for a part that does not follow the stored
        ones, and `InvalidMessage` if the file becomes too large.
        """
        place = self._folder / transfer
        if offset + len(body) > LARGEST_FILE:
            self.remove(transfer)
            raise too_large()
        if offset == 0:
            self._make_room(transfer)
            (self._folder / f"{transfer}{_COMPLETED}").unlink(missing_ok=True)
            place.write_bytes(body)
            return len(body)
        size = place.stat().st_size if place.is_file() else 0
        if offset + len(body) <= size:
            return size
        if offset != size:
            raise Conflict(f"this transfer expects offset {size}; send the parts in order, from offset 0")
        with place.open("ab") as file:
            file.write(body)
        return offset + len(body)

    def check(self, transfer: str, sha256: str | None) -> None:
        """Raise `InvalidMessage` and remove the parts if the file has another digest."""
        with (self._folder / transfer).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 is not None and sha256 != found:
            self.remove(transfer)
            raise InvalidMessage(
                f"the file that arrived has the digest {found}; it was changed on its way, so send it again",
                field="$.sha256",
            )

    async def chunks(self, transfer: str) -> AsyncIterator[bytes]:
        """Yield the content of the file."""
        with (self._folder / transfer).open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk

    def part(self, transfer: str, offset: int) -> tuple[bytes, int]:
        """Return the part of a file at this offset, and the size of the file. Raises `Conflict` if there is no copy."""
        try:
            with (self._folder / transfer).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                file.seek(offset)
                return file.read(LARGEST_PART), size
        except FileNotFoundError:
            raise Conflict("this transfer has ended; begin it again at offset 0") from None

    def replace(self, transfer: str, by: str) -> None:
        """Give the complete file of the transfer `by` the name of another one."""
        (self._folder / by).replace(self._folder / transfer)

    def complete(self, transfer: str, sha256: str | None) -> None:
        """Replace the parts of an upload by the digest of its file, for a last part that arrives again."""
        self.remove(transfer)
        if sha256 is not None:
            (self._folder / f"{transfer}{_COMPLETED}").write_text(sha256)

    def was_completed(self, transfer: str, sha256: str) -> bool:
        """Whether the upload was completed with a file of this digest, and no part was stored since."""
        try:
            return (self._folder / f"{transfer}{_COMPLETED}").read_text() == sha256
        except FileNotFoundError:
            return False

    def remove(self, transfer: str) -> None:
        """Remove the parts of a transfer, if there are any."""
        (self._folder / transfer).unlink(missing_ok=True)

    def _make_room(self, transfer: str) -> None:
        """Make the directory and remove abandoned transfers. Raises `TooMany` if there are too many others."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        others, completed = 0, list[tuple[float, Path]]()
        for other in self._folder.iterdir():
            with suppress(FileNotFoundError):
                changed_at = other.stat().st_mtime
                if self._now() - changed_at > ABANDONED_S:
                    other.unlink()
                elif other.suffix == _COMPLETED:
                    completed.append((changed_at, other))
                elif other.name != transfer:
                    others += 1
        for _, oldest in sorted(completed)[:-MOST_TRANSFERS]:
            oldest.unlink(missing_ok=True)
        if others >= MOST_TRANSFERS:
            raise TooMany(f"{others} files of this sandbox are being transferred; wait until one of them has ended")


def too_large() -> InvalidMessage:
    """Return the refusal of a file that is too large."""
    return InvalidMessage(
        f"the file is larger than {LARGEST_FILE >> 20} MiB; compress it, or transfer parts of it", field="$.path"
    )

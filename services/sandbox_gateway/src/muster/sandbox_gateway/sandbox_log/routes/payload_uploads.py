"""The endpoint with which a worker uploads the whole body of an event that is too large for the sandbox's log.

```
worker                                gateway
  │── PUT payloads/<sha256> ────────────▶│ receives the body in a file, checks the digest, removes secrets, stores it
  │◀── 201 ClippedBody (head, tail, …) ──│
  │── POST events, with that body ──────▶│ checks that the payload is stored, appends the event to the log
```
If the worker dies between the two requests, its next launch uploads the body again, and the stored object is found.
The digest in the path is that of the worker's bytes. If secrets were removed, the answer has the digest of the stored
bytes, and `redacted` is true.
"""

import re

from starlette.responses import Response

from muster.common.contracts.sandbox_log import MAX_BODY_BYTES, SHA256
from muster.common.contracts.worker_api import MAX_PAYLOAD_BYTES
from muster.common.faults import InvalidMessage
from muster.sandbox_gateway.http.access import WorkerAccess
from muster.sandbox_gateway.http.request import WorkerRequest, answer
from muster.sandbox_gateway.sandbox_log.adapters.payload_files import PayloadFiles
from muster.sandbox_gateway.sandbox_log.store.payloads import PayloadStore

_BODY_S = 15.0
_SLOWEST = float(1 << 20)
"""Fewest bytes in a second of a body that needs longer than `_BODY_S`."""
_DIGEST = re.compile(SHA256)


class PayloadUploads:
    """The HTTP endpoint `payloads/<sha256>` for the workers of all sandboxes."""

    def __init__(self, payloads: PayloadStore, files: PayloadFiles, access: WorkerAccess) -> None:
        self._payloads, self._files, self._access = payloads, files, access

    async def upload(self, request: WorkerRequest, sandbox_id: str, sha256: str) -> Response:
        """Keep the whole body of an event. Answers 201 after JetStream has stored it. May be repeated.

        Answers 413 if a bound is reached. The worker then sends the event with the head and the tail only.
        """
        claims = self._access.authorize(request, sandbox_id=sandbox_id, expired_too=True)
        if not _DIGEST.match(sha256):
            raise InvalidMessage("the path ends with the SHA-256 digest of the body, 64 of 0-9 a-f", field="$.sha256")
        size = _declared(request)
        await self._access.check_open(claims, request)
        if not await self._payloads.has(sandbox_id, sha256):
            await self._payloads.check_room(sandbox_id, size)
        with self._files.receiving(sandbox_id), self._files.file() as received, self._files.file() as clean:
            pieces = request.pieces(size, within_s=_BODY_S + size / _SLOWEST)
            payload = await self._files.checked(sandbox_id, pieces, sha256, received, clean)
            with payload.body:
                # The epoch may have ended while the body arrived.
                await self._access.check_open(claims, request)
                kept = await self._payloads.keep(sandbox_id, payload.body, payload.sha256, redacted=payload.redacted)
        return answer(kept, 201)


def _declared(request: WorkerRequest) -> int:
    declared = request.headers.get("content-length", "")
    if not declared.isdigit():
        raise InvalidMessage("an upload needs the header Content-Length", field="$")
    if int(declared) <= MAX_BODY_BYTES:
        raise InvalidMessage(
            f"a body of at most {MAX_BODY_BYTES} bytes is sent in its event, not as a payload", field="$"
        )
    return min(int(declared), MAX_PAYLOAD_BYTES + 1)

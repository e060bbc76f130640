"""The endpoints for the webhooks of an OpenHands agent-server that runs in a sandbox instead of a worker.

Its `WebhookSpec` has the base URL `<gateway>/v1/sandboxes/<id>/openhands`, and the sandbox's token as the bearer token
in `headers`, or as its session API key.
"""

import asyncio
import hashlib

import msgspec
from starlette.responses import Response

from muster.common.clock import Clock
from muster.common.contract import encode
from muster.common.contracts.sandbox_log import MAX_BODY_BYTES, ClippedBody, LoggedEvent
from muster.common.faults import Gone
from muster.sandbox_gateway.http.access import WorkerAccess
from muster.sandbox_gateway.http.request import WorkerRequest, accepted
from muster.sandbox_gateway.sandbox_log.adapters.redaction_thread import redacted
from muster.sandbox_gateway.sandbox_log.domain.openhands_events import posted_conversation, posted_events
from muster.sandbox_gateway.sandbox_log.domain.post_checks import checked_bodies
from muster.sandbox_gateway.sandbox_log.domain.redaction import REPLACED, SecretRedactor
from muster.sandbox_gateway.sandbox_log.store.payloads import NotKept, PayloadStore
from muster.sandbox_gateway.sandbox_log.store.unnumbered import UnnumberedEvents
from muster.sandbox_gateway.sandboxes.domain.tokens import SandboxClaims


class OpenHandsWebhooks:
    """The HTTP endpoints `openhands/events/<conversation>` and `openhands/conversations`."""

    def __init__(
        self,
        events: UnnumberedEvents,
        access: WorkerAccess,
        redactor: SecretRedactor,
        payloads: PayloadStore,
        now: Clock,
    ) -> None:
        self._events, self._access, self._redactor, self._now = events, access, redactor, now
        self._payloads = payloads

    async def events(self, request: WorkerRequest, sandbox_id: str) -> Response:
        """Append the events that the log does not have. Answers 202 after JetStream has stored them."""
        claims, body = await self._authorized(request, sandbox_id)
        return await self._appended(request, claims, posted_events(body))

    async def conversations(self, request: WorkerRequest, sandbox_id: str) -> Response:
        """Append the description of a conversation as an event, unless the log has the same description."""
        claims, body = await self._authorized(request, sandbox_id)
        return await self._appended(request, claims, [posted_conversation(body, self._now())])

    async def _authorized(self, request: WorkerRequest, sandbox_id: str) -> tuple[SandboxClaims, bytes]:
        claims = self._access.authorize(request, sandbox_id=sandbox_id, expired_too=True)
        return claims, await redacted(self._redactor, await request.body())

    async def _appended(self, request: WorkerRequest, claims: SandboxClaims, events: list[LoggedEvent]) -> Response:
        for _ in checked_bodies(events):
            await asyncio.sleep(0)
        if any(len(bytes(event.body)) > MAX_BODY_BYTES for event in events):
            await self._access.check_open(claims, request)
            events = [await self._shortened(claims.sbx, event) for event in events]
        try:
            return accepted(await self._events.append(claims.owner, events))
        except Gone:
            self._access.count_zombie_write(claims, request)
            raise

    async def _shortened(self, sandbox_id: str, event: LoggedEvent) -> LoggedEvent:
        """Return the event; if its body is too long for a frame, with head and tail, after the whole body was kept."""
        body = bytes(event.body)
        if len(body) <= MAX_BODY_BYTES:
            return event
        sha256 = hashlib.sha256(body).hexdigest()
        try:
            kept = await self._payloads.keep(sandbox_id, body, sha256, redacted=REPLACED in body)
        except NotKept as refusal:
            clipped = ClippedBody.of(body, sha256=sha256, redacted=REPLACED in body, why=str(refusal))
            return msgspec.structs.replace(event, body=msgspec.Raw(encode(clipped)))
        return msgspec.structs.replace(event, body=msgspec.Raw(encode(kept)), payload=sha256)

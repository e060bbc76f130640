"""Uploads the whole bodies of events that are too large for the sandbox log, before the events themselves are posted.

The gateway removes secrets from an uploaded body, stores it, and answers with its head, tail, size and digest. This
answer becomes the body of the event. The upload of a body can be repeated, so after a crash the next launch uploads it
again. If the gateway does not keep a body, because a bound is reached, the event has only head and tail, and says why.
"""

import asyncio
import hashlib

import msgspec

from muster.agent.exit_codes import Rejected
from muster.agent.gateway_client import GatewayClient
from muster.common.contract import encode
from muster.common.contracts.sandbox_log import MAX_BODY_BYTES, ClippedBody, LoggedEvent
from muster.common.contracts.worker_api import MAX_PAYLOAD_BYTES

_UNKNOWN_TOKEN = 401


def is_large(event: LoggedEvent) -> bool:
    """Whether the body of the event is too large for the sandbox log."""
    return len(bytes(event.body)) > MAX_BODY_BYTES


class LargeEventUploads:
    """Replaces the bodies of large events by their heads and tails, and uploads the whole bodies."""

    def __init__(self, gateway: GatewayClient) -> None:
        self._gateway = gateway

    async def replaced(self, event: LoggedEvent) -> LoggedEvent:
        """Return the event with a body that fits into the log. Raises `EpochFenced`, or `Rejected` for a wrong token.

        Waits until the gateway answers.
        """
        if not is_large(event):
            return event
        body = bytes(event.body)
        if len(body) > MAX_PAYLOAD_BYTES:
            return _clipped(event, f"the whole body was not kept: it exceeds {MAX_PAYLOAD_BYTES >> 20} MiB")
        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(body).hexdigest())
        try:
            kept = await self._gateway.keep_payload(sha256, body)
        except Rejected as refusal:
            if refusal.status == _UNKNOWN_TOKEN:
                raise
            return _clipped(event, refusal.detail)
        return msgspec.structs.replace(event, body=msgspec.Raw(encode(kept)), payload=kept.sha256)


def _clipped(event: LoggedEvent, why: str) -> LoggedEvent:
    return msgspec.structs.replace(event, body=msgspec.Raw(encode(ClippedBody.of(bytes(event.body), why=why))))

"""The HTTP endpoint of model calls, with requests and answers in OpenAI's format.

The endpoint checks the request, records the steering messages in the request as `seen` in the sandbox's log, and then
calls the model and meters the call. The order matters: a steering message must be recorded as seen before the model
can act on it.
"""

import asyncio
from collections.abc import Sequence
from typing import Any, Literal, cast

import msgspec
from starlette.responses import Response

from muster.common.bus.connection import Bus
from muster.common.faults import Forbidden, InvalidMessage, Unavailable
from muster.sandbox_gateway.http.access import WorkerAccess
from muster.sandbox_gateway.http.request import JSON, WorkerRequest
from muster.sandbox_gateway.messages.store.inbox import InboxStore
from muster.sandbox_gateway.models.domain.model_names import ModelNames
from muster.sandbox_gateway.models.domain.requests import request_to_provider
from muster.sandbox_gateway.models.domain.steering_markers import markers
from muster.sandbox_gateway.models.routes.metering import MeteredModels
from muster.sandbox_gateway.models.routes.quota import ModelQuota
from muster.sandbox_gateway.sandbox_log.domain.post_checks import check_size, decoded
from muster.sandbox_gateway.sandbox_log.store.log import DEADLINE_S, SandboxLog
from muster.sandbox_gateway.sandboxes.domain.tokens import SandboxClaims


class ChatMessage(msgspec.Struct):
    """A message of a model request, with only the field that the gateway validates by its type."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]


class ChatRequest(msgspec.Struct):
    """A model request, with only the fields that the gateway validates by their types."""

    model: str
    messages: list[ChatMessage]
    stream: bool | None = False


_anything = msgspec.json.Decoder(Any)


class CompletionRoutes:
    """The HTTP endpoint of the model calls of all sandboxes."""

    def __init__(
        self,
        bus: Bus,
        log: SandboxLog,
        inbox: InboxStore,
        models: MeteredModels,
        names: ModelNames,
        access: WorkerAccess,
        quota: ModelQuota,
        *,
        allowed: frozenset[str],
        most_tokens: int,
        remote_images: bool,
    ) -> None:
        self._bus, self._log, self._inbox = bus, log, inbox
        self._models, self._names, self._allowed = models, names, allowed
        self._access, self._quota = access, quota
        self._most_tokens, self._remote_images = most_tokens, remote_images

    async def complete(self, request: WorkerRequest) -> Response:
        """Make one model call for a worker. Records the steering messages in the request as `seen` before the call.

        Raises a `Fault` with the reason if there is no answer.
        """
        claims = self._access.authorize(request)
        with self._quota.running_call(claims.sbx):
            return await self._completed(request, claims)

    async def _completed(self, request: WorkerRequest, claims: SandboxClaims) -> Response:
        body = await request.body()
        whole, asked = _decoded(body)
        if asked.stream:
            raise InvalidMessage("the gateway does not stream answers; leave the field `stream` out", field="$.stream")
        model = self._permitted(asked.model, claims)
        self._names.provider(model)
        passed = request_to_provider(whole, most_tokens=self._most_tokens, remote_images=self._remote_images)
        passed["model"] = model
        await self._access.check_open(claims, request)
        request_id = self._bus.new_id("req")
        carried = await self._mark_seen(claims, markers(passed["messages"]), request_id)
        done = await self._models.complete(claims, passed, request_id, carried)
        return Response(done.body, headers={"x-request-id": request_id}, media_type=JSON)

    async def _mark_seen(self, claims: SandboxClaims, found: Sequence[str], request_id: str) -> list[str]:
        """Record the messages in `found` that were sent to this sandbox as `seen`, and return their ids.

        Other ids are ignored, because any text in the conversation may look like the marker of a message.
        """
        try:
            async with asyncio.timeout(DEADLINE_S):
                carried = await self._inbox.stored_ids(claims.sbx, found)
                for message_id in carried:
                    await self._log.mark_seen(claims.owner, message_id, request_id)
        except TimeoutError:
            raise Unavailable("the sandbox's log did not acknowledge in time; send the same request again") from None
        return carried

    def _permitted(self, asked: str, claims: SandboxClaims) -> str:
        if asked == claims.model or asked in self._allowed:
            return asked
        if f"openai/{asked}" == claims.model:  # OpenAI client libraries remove `openai/` from the name
            return claims.model
        raise Forbidden(f"this sandbox may not use the model {asked[:200]}; use {claims.model}", field="$.model")


def _decoded(body: bytes) -> tuple[dict[str, Any], ChatRequest]:
    """Decode a model request to plain JSON values and to the typed fields that the gateway validates."""
    check_size(body)
    whole = decoded(body, _anything)
    try:
        return cast("dict[str, Any]", whole), msgspec.convert(whole, ChatRequest)
    except msgspec.ValidationError as error:
        raise InvalidMessage.at(error, ChatRequest) from None

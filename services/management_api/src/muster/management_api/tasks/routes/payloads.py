"""The route `GET /api/v1/tasks/{task_id}/payloads/{sha256}`: the whole body of a large event."""

from contextlib import aclosing
from typing import Annotated, Any, override

import structlog
from fastapi import Header, Response
from starlette.types import Receive, Scope, Send

from muster.common.bus.objects import ObjectBucket, ObjectRecord
from muster.common.contracts.sandbox_log import PAYLOADS, payload_name
from muster.common.contracts.tasks import GetTask
from muster.common.faults import Fault, NotFound
from muster.management_api.http.application_parts import Nats, Services
from muster.management_api.http.ids import Sha256InPath, TaskId
from muster.management_api.http.openapi import refuses
from muster.management_api.http.route import routes_of
from muster.management_api.tasks.routes.tasks import TASKS, Viewer, own

log = structlog.get_logger()

BINARY = "application/octet-stream"
"""An agent chooses the content, so no browser must interpret it."""
_BYTES: dict[str, Any] = {
    "description": "The bytes of the body, which an agent wrote as JSON.",
    "content": {BINARY: {"schema": {"type": "string", "format": "binary"}}},
    "headers": {"ETag": {"description": "The SHA-256 digest of the bytes.", "schema": {"type": "string"}}},
}

router = routes_of(TASKS, "tasks")


class ObjectResponse(Response):
    """A response with the content of a stored object, which is read while it is sent.

    If the content cannot be read or does not match its digest, the connection is closed before the last piece, so that
    the client sees that the response is incomplete.
    """

    media_type = BINARY

    def __init__(self, bucket: ObjectBucket, record: ObjectRecord, headers: dict[str, str]) -> None:
        super().__init__(headers=headers | {"Content-Length": str(record.size)})
        self._bucket, self._record = bucket, record

    @override
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the content to the client."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        try:
            async with aclosing(self._bucket.read(self._record)) as pieces:
                async for piece in pieces:
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except Fault as fault:
            log.error("stored object cut in its response", object=self._record.name, error=str(fault))  # noqa: TRY400
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@router.get(
    "/{task_id}/payloads/{sha256}",
    status_code=200,
    response_class=ObjectResponse,
    responses=refuses(404, 422) | {200: _BYTES, 304: {"description": "The client has these bytes."}},
)
async def get_payload(
    task_id: TaskId,
    sha256: Sha256InPath,
    caller: Viewer,
    services: Services,
    bus: Nats,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Return the whole body of an event of the task. `payload` of the event in the task's feed is its digest.

    A body that was damaged after it was stored is cut before its end.
    """
    view = await services.ask(GetTask(task_id=task_id))
    own(view, caller)
    bucket, etag = ObjectBucket(bus, PAYLOADS), f'"{sha256}"'
    for attempt in view.attempts:
        if (record := await bucket.find(payload_name(attempt.sandbox_id, sha256))) is not None:
            headers = {"ETag": etag, "Cache-Control": "private, immutable", "X-Content-Type-Options": "nosniff"}
            if if_none_match == etag:
                return Response(status_code=304, headers=headers)
            return ObjectResponse(bucket, record, headers)
    raise NotFound(f"no event of this task has a whole body with the digest {sha256}", field="$.sha256")

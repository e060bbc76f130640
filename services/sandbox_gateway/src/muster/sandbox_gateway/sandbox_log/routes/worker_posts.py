"""The endpoints for workers: `events` and `finished` append to the sandbox's log, and `beat` publishes a heartbeat."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
from msgspec.structs import replace
from starlette.responses import Response

from muster.common.bus.connection import Bus
from muster.common.contract import encode
from muster.common.contracts.gateway import SandboxBeat
from muster.common.contracts.sandbox_log import MAX_FRAME_BYTES, Finished, FrameKind, partition
from muster.common.contracts.worker_api import Beat, PostFinished
from muster.common.faults import Gone, InvalidMessage, TooLarge, Unavailable
from muster.common.withheld_diffs import withheld
from muster.sandbox_gateway.http.access import WorkerAccess
from muster.sandbox_gateway.http.request import WorkerRequest, accepted
from muster.sandbox_gateway.sandbox_log.adapters.redaction_thread import redacted
from muster.sandbox_gateway.sandbox_log.domain.frames import FrameDraft, control, events_drafts, gap
from muster.sandbox_gateway.sandbox_log.domain.post_checks import (
    MOST_SEQ,
    check_time,
    checked_bodies,
    decoded,
    events_post,
)
from muster.sandbox_gateway.sandbox_log.domain.redaction import SecretRedactor
from muster.sandbox_gateway.sandbox_log.store.log import DEADLINE_S, SandboxLog
from muster.sandbox_gateway.sandbox_log.store.payloads import PayloadStore
from muster.sandbox_gateway.sandboxes.domain.tokens import SandboxClaims

_finished = msgspec.json.Decoder(PostFinished)
_beats = msgspec.json.Decoder(Beat)


class LogRoutes:
    """The HTTP endpoints `events`, `finished` and `beat` for the workers of all sandboxes."""

    def __init__(
        self,
        bus: Bus,
        log: SandboxLog,
        access: WorkerAccess,
        redactor: SecretRedactor,
        payloads: PayloadStore,
        settle: Callable[[str], Awaitable[None]],
    ) -> None:
        """`settle` appends everything else that belongs before the `finished` frame of a sandbox's log."""
        self._bus, self._log, self._access, self._redactor = bus, log, access, redactor
        self._payloads, self._settle = payloads, settle

    async def events(self, request: WorkerRequest, sandbox_id: str) -> Response:
        """Append a worker's events, or a gap of lost events, to the sandbox's log, without the secrets in them.

        Answers 202 after JetStream has stored the append.
        """
        claims = self._access.authorize(request, sandbox_id=sandbox_id, expired_too=True)
        body = await redacted(self._redactor, await request.body())
        post = events_post(body)
        _check_epoch(post.epoch, claims)
        for _ in checked_bodies(post.events):
            await asyncio.sleep(0)
        events = await self._payloads.confirmed(sandbox_id, post.events)
        drafts = [gap(claims.owner, post.gap)] if post.gap else events_drafts(claims.owner, events, len(body))
        return accepted(await self._appended(request, claims, drafts))

    async def finished(self, request: WorkerRequest, sandbox_id: str) -> Response:
        """Append the result of a worker's run to the sandbox's log, without the secrets in it.

        Only known secrets are replaced in the diff. A diff with a replaced secret is marked and not delivered.
        A repeated request appends nothing and is also answered with 202.
        """
        claims = self._access.authorize(request, sandbox_id=sandbox_id, expired_too=True)
        post = await self._without_secrets(decoded(await request.body(), _finished), self._access.token_in(request))
        _check_epoch(post.epoch, claims)
        if not 1 <= post.next_seq < MOST_SEQ:
            raise InvalidMessage("next_seq must be 1 or more and less than 2 ** 53", field="$.next_seq")
        _check_texts(post.result)
        draft = control(claims.owner, FrameKind.FINISHED, post.result, next_seq=post.next_seq)
        if len(bytes(draft.body)) > MAX_FRAME_BYTES:
            raise TooLarge(f"the run's result exceeds {MAX_FRAME_BYTES} bytes; shorten the diff", field="$.result.diff")
        loop = asyncio.get_running_loop()
        ends = loop.time() + DEADLINE_S
        await self._settle(sandbox_id)
        return accepted(await self._appended(request, claims, [draft], deadline_s=ends - loop.time()))

    async def beat(self, request: WorkerRequest, sandbox_id: str) -> Response:
        """Publish a worker's heartbeat for the guardian, with the time of this gateway's clock."""
        claims = self._access.authorize(request, sandbox_id=sandbox_id, expired_too=True)
        beat = decoded(await request.body(), _beats)
        _check_epoch(beat.epoch, claims)
        check_time(beat.since, "$.since")
        next_seq = await self._next_seq(request, claims)
        await self._bus.publish(
            SandboxBeat(
                partition=partition(sandbox_id),
                sandbox_id=sandbox_id,
                task_id=claims.tsk,
                epoch=claims.epoch,
                at=self._bus.now(),
                state=beat.state,
                busy=beat.busy,
                since=beat.since,
                events=beat.events,
                acked=beat.acked,
            )
        )
        return accepted(next_seq)

    async def _without_secrets(self, post: PostFinished, sandbox_token: str) -> PostFinished:
        diff, secrets = self._redactor.without_known(post.result.diff, {"sandbox token": sandbox_token})
        rest = replace(post, result=replace(post.result, diff=""))
        kept = decoded(await redacted(self._redactor, encode(rest)), _finished)
        return replace(kept, result=replace(kept.result, diff=withheld(diff, secrets)))

    async def _appended(
        self,
        request: WorkerRequest,
        claims: SandboxClaims,
        drafts: Sequence[FrameDraft],
        *,
        deadline_s: float = DEADLINE_S,
    ) -> int:
        try:
            return await self._log.append(drafts, deadline_s=deadline_s)
        except Gone:
            self._access.count_zombie_write(claims, request)
            raise

    async def _next_seq(self, request: WorkerRequest, claims: SandboxClaims) -> int:
        """Return the seq of the next event that the log expects, from the remembered last frame, which may be old.

        The log is not read, because heartbeats are frequent. Raises `Gone` if the epoch has ended, and `Unavailable` if
        no frame is remembered and the log cannot be read in time.
        """
        try:
            async with asyncio.timeout(DEADLINE_S):
                tail = await self._log.tail(claims.sbx, fresh=False)
        except TimeoutError:
            raise Unavailable("the sandbox's log cannot be read right now; send the same request again") from None
        if tail is None or tail.kind.terminal or tail.epoch != claims.epoch:
            self._access.count_zombie_write(claims, request)
            raise Gone("this epoch of the sandbox has ended; its worker must stop")
        return tail.next


def _check_texts(result: Finished) -> None:
    for name, text in (("summary", result.summary), ("diff", result.diff), ("error", result.error or "")):
        if "\0" in text:
            raise InvalidMessage("a NUL character in a text cannot be stored; remove it", field=f"$.result.{name}")


def _check_epoch(epoch: int, claims: SandboxClaims) -> None:
    if epoch != claims.epoch:
        raise InvalidMessage(f"the sandbox's token is for epoch {claims.epoch}, not for epoch {epoch}", field="$.epoch")

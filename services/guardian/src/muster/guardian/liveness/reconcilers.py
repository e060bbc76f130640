"""Finds silent sandboxes: they sent no heartbeat and no frame for their TTL, while NATS and a gateway worked.

```
heartbeat or frame ─▶ move the sandbox's deadline
deadline passes ─▶ wait for the next `alive` message of a gateway ─▶ still silent? ─▶ SilenceObserved is recorded
path interrupted (no `alive`, a new gateway process, a reconnection) ─▶ every sandbox gets its full TTL again
```
A broken path from the workers to the guardian looks the same as silent workers. So a passed deadline is effective only
after the next `alive` message of a gateway, which shows that NATS and a gateway worked until then. If most sandboxes
are silent at the same time, the path is the likely cause (a storm), and each sandbox gets its TTL once more.

Deadlines are in memory. After a crash the next leader reads the tail of every log and the last heartbeats, and gives
every live sandbox its full TTL. A silence is recorded as an input; the fold of the sandbox's log decides once whether
the attempt is replaced.
"""

import asyncio
from datetime import timedelta

import structlog

from muster.common.bus.connection import Bus, Incoming
from muster.common.bus.message_store import MessageStore, Stored
from muster.common.contract import decode, wildcard
from muster.common.contracts.gateway import GatewayAlive, SandboxBeat
from muster.common.contracts.sandbox_log import PARTITIONS, Frame, FrameHead, FrameKind, log_stream
from muster.common.faults import Fault, TimedOut, Transient, Unavailable
from muster.guardian.journal.domain.inputs import SilenceObserved
from muster.guardian.liveness.domain import SilenceDeadlines
from muster.guardian.settings import GuardianSettings
from muster.guardian.trajectories.domain.trajectory import Trajectory
from muster.guardian.trajectories.store import TrajectoryStore

log = structlog.get_logger()

BEATS = "BEATS"
_FORGOTTEN_S = 60.0
"""Seconds without an `alive` message after which the guardian forgets a gateway process."""
TERMINAL = (FrameKind.FENCED, FrameKind.CLOSED)
NO_BEATS_AFTER = (FrameKind.FINISHED, *TERMINAL)
"""Kinds of a log's last frame after which no heartbeat is expected. After `finished`, messages may lack an answer."""


class SilenceWatch:
    """Keeps the deadlines of all sandboxes, with one timer for the earliest deadline."""

    def __init__(self, bus: Bus, trajectories: TrajectoryStore, settings: GuardianSettings) -> None:
        self._bus, self._trajectories, self._settings = bus, trajectories, settings
        self._deadlines = SilenceDeadlines()
        self._alive_at_s = float("-inf")
        self._instances: dict[str, float] = {}
        self._wakes_at_s = float("inf")
        self._alive, self._changed = asyncio.Event(), asyncio.Event()

    def frame(self, frame: Frame) -> None:
        """Take a frame of a sandbox log as a sign of life, or as the end of the sandbox's heartbeats."""
        self._logged(frame.sandbox_id, frame.kind)

    async def run(self) -> None:
        """Receive heartbeats and `alive` messages of gateways, and find silent sandboxes, until cancelled."""
        alive = await self._bus.subscribe(GatewayAlive.SUBJECT, self._gateway_alive)
        beats = await self._bus.subscribe(wildcard(SandboxBeat.SUBJECT), self._beat)
        try:
            async with self._bus.woken_by() as reconnected, asyncio.TaskGroup() as tasks:
                tasks.create_task(self._load_after_outages(reconnected))
                tasks.create_task(self._judge())
        finally:
            await alive.unsubscribe()
            await beats.unsubscribe()

    async def _load_after_outages(self, reconnected: asyncio.Event) -> None:
        """At the start and after each reconnection, find the live sandboxes and give each its full TTL."""
        wait_s = 0.25
        while True:
            reconnected.clear()
            self._restart_all()
            try:
                await self._load_all()
            except (Unavailable, TimedOut, Transient) as fault:
                log.warning("list of live sandboxes not read", error=str(fault))
                # The gateway creates the streams and does not announce this, so the guardian tries again after a pause.
                await asyncio.sleep(wait_s)
                wait_s = min(2.0, wait_s * 2)
                continue
            await reconnected.wait()

    async def _load_all(self) -> None:
        message_store = MessageStore(self._bus)
        for number in range(PARTITIONS):
            tails = await message_store.last_of_each(log_stream(f"{number:02d}"), f"sandbox.{number:02d}.*.log")
            for stored in tails:
                await self._load_one(stored)
        async for stored in message_store.replay(BEATS, "sandbox.*.*.beat"):
            self._beat_now(stored.body, known=True)

    async def _load_one(self, stored: Stored) -> None:
        """Set the sandbox's deadline and load its trajectory, which carries out pending decisions of an old leader."""
        try:
            tail = decode(stored.body, FrameHead)
            if tail.kind in TERMINAL:
                return
            self._logged(tail.sandbox_id, tail.kind)
            await self._trajectories.load(tail.sandbox_id)
        except (Unavailable, TimedOut):
            raise
        except Exception:
            # An unexpected error concerns only this log, whose contents agents write. The other sandboxes must still be
            # watched. The log is loaded again with its next frame, or when its sandbox is silent.
            log.exception("sandbox log could not be folded at start", subject=stored.subject)

    async def _gateway_alive(self, message: Incoming) -> None:
        now_s, instance = self._now_s(), decode(message.data, GatewayAlive).instance
        # A gateway process that was killed and restarted is a new instance; heartbeats were lost in between.
        if instance not in self._instances or now_s - self._alive_at_s > self._settings.gateway_alive_s:
            log.info(
                "gateway messages arrive after an interruption, heartbeat timeouts restarted",
                sandboxes=len(self._deadlines),
                instance=instance,
            )
            self._restart_all()
        self._instances = {one: at_s for one, at_s in self._instances.items() if now_s - at_s < _FORGOTTEN_S}
        self._instances[instance] = now_s
        self._alive_at_s = now_s
        self._alive.set()

    async def _beat(self, message: Incoming) -> None:
        self._beat_now(message.data, known=False)

    def _beat_now(self, body: bytes, *, known: bool) -> None:
        try:
            beat = decode(body, SandboxBeat)
        except Fault as fault:
            log.warning("sandbox heartbeat could not be decoded", error=str(fault))
            return
        if not known or beat.sandbox_id in self._deadlines:
            self._move_deadline(beat)

    def _move_deadline(self, beat: SandboxBeat) -> None:
        idle = beat.state in ("idle", "waiting")
        ttl_s = self._settings.beat_ttl_idle_s if idle else self._settings.beat_ttl_running_s
        self._expect(beat.sandbox_id, ttl_s)

    def _logged(self, sandbox_id: str, kind: FrameKind) -> None:
        if kind in NO_BEATS_AFTER:
            self._deadlines.forget(sandbox_id)
        elif kind is FrameKind.OPENED:
            self._expect(sandbox_id, self._settings.beat_ttl_starting_s)
        else:
            self._expect(sandbox_id, self._settings.beat_ttl_running_s)

    def _expect(self, sandbox_id: str, ttl_s: float) -> None:
        now_s = self._now_s()
        self._deadlines.expect_within(sandbox_id, now_s, ttl_s)
        if now_s + ttl_s < self._wakes_at_s:
            self._changed.set()

    def _restart_all(self) -> None:
        self._deadlines.restart_all(self._now_s())

    async def _judge(self) -> None:
        while True:
            await self._until_something_is_due()
            # Only an `alive` message after the deadline shows that the path worked until the deadline. If all gateways
            # were silent, that message has given every sandbox its full TTL, and no deadline has passed.
            self._alive.clear()
            await self._alive.wait()
            if not self._bus.connected.is_set():
                continue
            if due := self._deadlines.due(self._now_s()):
                await self._judge_all(due)

    async def _until_something_is_due(self) -> None:
        while True:
            self._changed.clear()
            earliest_s = self._deadlines.earliest_s()
            self._wakes_at_s = float("inf") if earliest_s is None else earliest_s
            if self._wakes_at_s <= self._now_s():
                return
            try:
                async with asyncio.timeout(None if earliest_s is None else earliest_s - self._now_s()):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _judge_all(self, due: list[str]) -> None:
        now_s, settings = self._now_s(), self._settings
        storm = self._deadlines.storm(now_s, share=settings.storm_share, at_least=settings.storm_at_least)
        if storm:
            log.error("most sandboxes became silent at the same time", silent=len(due), of=len(self._deadlines))
        for sandbox_id in due:
            if not (storm and self._deadlines.hold(sandbox_id, now_s)):
                await self._silent(sandbox_id)

    async def _silent(self, sandbox_id: str) -> None:
        ttl_s = self._deadlines.ttl_s(sandbox_id)
        heard_at = self._bus.now() - timedelta(seconds=ttl_s)

        def observation(trajectory: Trajectory) -> SilenceObserved | None:
            if not trajectory.live or trajectory.unresponsive is not None:
                return None
            return SilenceObserved(heard_at=heard_at, ttl_s=ttl_s)

        try:
            await self._trajectories.add_input(sandbox_id, observation)
        except (Fault, Transient) as fault:
            log.warning(
                "sandbox silence not recorded, checked again after its timeout", sandbox_id=sandbox_id, error=str(fault)
            )
            self._expect(sandbox_id, ttl_s)
        except Exception:
            # The bug concerns the log of one sandbox. The other silent sandboxes must still be checked.
            log.exception("sandbox silence check raised an unexpected error", sandbox_id=sandbox_id)
            self._expect(sandbox_id, ttl_s)
        else:
            self._deadlines.forget(sandbox_id)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

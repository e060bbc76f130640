"""One worker in the shim: its record, its timers and its end. Timers and the keeper's packets drive the worker's state.

    start --keeper sends `pid`, `started`--> running --`exited <status>`--> reported --keeper reaped--> exited
       |                                       |
       +--`failed <text>`--> exited            +-- stop, lease or time limit: TERM, `grace_s` later KILL by the keeper,
                                               |   2 s later SIGKILL to the keeper itself
                                               +-- keeper killed: exited with an error, without exit code

The keeper is the process that starts the worker. It ends after every descendant of the worker has ended. So a worker
counts as ended only when its keeper is reaped.
"""

import asyncio
import os
from collections.abc import Callable

from msgspec.structs import replace

from muster.common.clock import Clock
from muster.shim.keeper_channel import KeeperChannel
from muster.shim.limit_enforcer import LimitEnforcer
from muster.shim.output import OutputFile
from muster.shim.protocol import LaunchRequest, ProcessRecord, StoppedBy

LEASE_GRACE_S = 5.0
"""Seconds between TERM and KILL when a lease or a time limit ends."""
_KEEPER_S = 2.0
"""Longest time in seconds from the command `kill` to the end of the keeper; then the keeper itself is killed."""
_LATE_S = 1.0
"""A timer that fires later than this many seconds shows that the shim itself was suspended or blocked."""
_MOST_STATUS, _MOST_DIGITS = 0xFFFF, 18


class ShimWorker:
    """A running or ended worker.

    `started` is set when the worker's pid is known or its start has failed. `ended` is set when all processes of
    the worker have ended.
    """

    def __init__(
        self,
        record: ProcessRecord,
        output: OutputFile,
        now: Clock,
        limits: LimitEnforcer,
        *,
        on_print: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.record = record
        self.output = output
        self.started, self.ended = asyncio.Event(), asyncio.Event()
        self.settled = asyncio.Event()
        """Set when the worker has started or ended, or when a fork server could not start it."""
        self.unable: str | None = None
        """Why the fork server could not start the worker."""
        self.starting: asyncio.Task[None] | None = None
        """The task that waits for the fork server of this worker. A stop cancels the task."""
        self.reported = False
        """Whether the keeper has reported the exit status."""
        self._now, self._on_print, self._limits = now, on_print, limits
        self._launch: LaunchRequest | None = None
        self._channel: KeeperChannel | None = None
        self._lease_s: float | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._launched_s = 0.0
        if record.state == "exited":
            self.started.set()
            self.ended.set()

    @property
    def running(self) -> bool:
        """Return whether the worker or one of its descendants may still run."""
        return not self.ended.is_set()

    @property
    def keeper_pid(self) -> int:
        """Return the pid of the keeper, or of its bubblewrap; 0 if it is not known."""
        return self._channel.pid if self._channel and self.running else 0

    @property
    def has_keeper(self) -> bool:
        """Whether a keeper was started for this worker."""
        return self._channel is not None

    def launched(self) -> None:
        """Begin to measure the start time of this worker."""
        self._launched_s = asyncio.get_running_loop().time()

    def start(self, launch: LaunchRequest, channel: KeeperChannel, order: bytes) -> None:
        """Make the keeper start the worker, and start the timers of its lease and time limit."""
        self._channel, self._launch = channel, launch
        channel.begin(order, self._limit_keeper, self._take_packet, self._append_output)
        self._lease_s = launch.lease_s
        self.renew()
        if launch.timeout_s is not None:
            self._set_timer(launch.timeout_s, lambda: self.stop(LEASE_GRACE_S, "timeout"), "timeout")

    def abandon(self, channel: KeeperChannel) -> None:
        """Kill the keeper of a worker that a fork server could not start, so that the worker can be started again."""
        channel.kill()
        channel.close()
        if self._channel is channel:
            self._channel, self.unable = None, None
            self.settled.clear()
            self.record = replace(self.record, pid=None)

    def has(self, channel: KeeperChannel) -> bool:
        """Whether this is the channel to the worker's keeper."""
        return self._channel is channel

    def renew(self) -> None:
        """Let the worker's lease begin again now."""
        if self._lease_s is not None and self.running:
            due = asyncio.get_running_loop().time() + self._lease_s
            self._set_timer(self._lease_s, lambda: self._lease_expired(due), "lease")

    def stop(self, grace_s: float, by: StoppedBy) -> None:
        """Send TERM to the worker's process group, and KILL to all its processes after `grace_s` seconds.

        After repeated calls, the earliest KILL time applies.
        """
        if not self.running:
            return
        if self.record.stopped_by is None:  # The worker's record names who stopped the worker first.
            self.record = replace(self.record, stopped_by=by)
        if self._channel is None:
            if self.starting:
                self.starting.cancel()
            return
        if grace_s <= 0:
            self._kill()
            return
        self._channel.send(b"term")
        due = asyncio.get_running_loop().time() + grace_s
        if "kill" not in self._timers or due < self._timers["kill"].when():
            self._set_timer(grace_s, self._kill, "kill")

    def exceed(self, reason: str) -> None:
        """Kill all processes of a worker that is over one of its limits. Its record contains the reason."""
        if self.running and not self.reported and self.record.exceeded is None:
            self.record = replace(self.record, exceeded=reason, error=reason)
            self.stop(0, "limit")

    def keeper_ended(self) -> None:
        """Complete the worker's record after its keeper was reaped, even if the last output cannot be read."""
        try:
            if self._channel:
                self._channel.finish()
            self.output.close()
        finally:
            self._finalise()

    def _finalise(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if exceeded := self._limits.ended(self.record.key):
            self.record = replace(
                self.record, exceeded=exceeded, error=exceeded, stopped_by=self.record.stopped_by or "limit"
            )
        if not self.reported and not self.record.error:
            error = (
                "the worker's keeper was killed"
                if self.record.pid
                else f"the worker could not be started: {self._tail()}"
            )
            self.record = replace(self.record, error=error)
        self.record = replace(self.record, state="exited", ended_at=self.record.ended_at or self._now())

    def _tail(self) -> str:
        try:
            return self.output.page(-500, 500).body.decode(errors="replace").strip()
        except OSError as error:
            return f"the output file cannot be read: {error.strerror}"

    def release(self) -> None:
        """Wake all requests that wait for this worker.

        The caller must first give the record its exit number and write it to the journal.
        """
        self.started.set()
        self.ended.set()
        self.settled.set()
        self._on_print(self.record.key)

    def _append_output(self, piece: bytes) -> None:
        self.output.append(piece)
        self._on_print(self.record.key)

    def _kill(self) -> None:
        if self._channel is not None:
            self._channel.send(b"kill")
            self._set_timer(_KEEPER_S, self._kill_keeper, "keeper")

    def _kill_keeper(self) -> None:
        self._limits.kill(self.record.key)
        if self._channel is not None:
            self._channel.kill()

    def _lease_expired(self, due: float) -> None:
        late = asyncio.get_running_loop().time() - due
        # A late timer shows that the shim was suspended. Renewals may wait in its sockets, so the lease starts again.
        if late > _LATE_S:
            self.renew()
            return
        self.stop(LEASE_GRACE_S, "lease")

    def _set_timer(self, delay_s: float, act: Callable[[], None], name: str) -> None:
        """Set the timer `name` and cancel an earlier timer of this name."""
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = asyncio.get_running_loop().call_later(delay_s, act)

    def _limit_keeper(self, keeper: int) -> None:
        self._limited(lambda launch: self._limits.contain(self.record.key, keeper, launch.limits))

    def _limit_forked(self) -> None:
        """Limit a forked worker before it runs. Its keeper waits for `go`."""
        pid = self.record.pid
        if pid and self._channel and self._limited(lambda _: self._limits.join(self.record.key, pid)):
            self._channel.send(b"go")

    def _limited(self, act: Callable[[LaunchRequest], None]) -> bool:
        """Set limits. If that fails, kill the keeper, because no worker may run without its limits."""
        assert self._launch
        assert self._channel
        try:
            act(self._launch)
        except OSError as error:
            self.record = replace(self.record, error=f"the worker's limits could not be set: {error}")
            self._channel.kill()
            return False
        return True

    def _take_packet(self, packet: bytes, sender: int) -> None:
        """Handle a packet of the keeper, or the `pid` packet of the worker. Unknown packets are ignored."""
        name, _, rest = packet.partition(b" ")
        match name:
            case b"pid":
                self.record = replace(self.record, pid=sender)
            case b"joined":
                self._limit_forked()
            case b"started" if (ticks := _number(rest)) is not None:
                self.record = replace(self.record, start_ticks=ticks)
                self.started.set()
                self.settled.set()
            case b"failed":
                self.record = replace(self.record, error=rest.decode(errors="replace"))
            case b"unable" | b"worker":
                self._take_worker_packet(packet.removeprefix(b"worker "), sender)
            case b"exited" if (status := _number(rest)) is not None and _is_exit_status(status):
                self._exited(status)
            case _:
                pass

    def _take_worker_packet(self, packet: bytes, sender: int) -> None:
        """Handle a packet of the worker, which may be hostile: only the first one of each kind counts."""
        name, _, rest = packet.partition(b" ")
        match name:
            case b"pid" if self.record.pid is None:
                self.record = replace(self.record, pid=sender)
            case b"ready" if self.record.start_s is None:
                took_s = asyncio.get_running_loop().time() - self._launched_s
                self.record = replace(self.record, start_s=round(took_s, 3))
            case b"unable" if not self.started.is_set():
                self.unable = self.unable or rest.decode(errors="replace")
                self.settled.set()
            case _:
                pass

    def _exited(self, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        self.reported = True
        self.record = replace(
            self.record,
            exit_code=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            ended_at=self._now(),
        )


def _number(digits: bytes) -> int | None:
    """Convert decimal digits to an integer. Return None for other text, or for more than 18 digits."""
    return int(digits) if digits.isdigit() and len(digits) <= _MOST_DIGITS else None


def _is_exit_status(status: int) -> bool:
    return status <= _MOST_STATUS and (os.WIFEXITED(status) or os.WIFSIGNALED(status))

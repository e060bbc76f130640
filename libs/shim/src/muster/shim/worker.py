"""One worker: its record, its clocks and the two ways it ends. Everything is driven by callbacks; nothing polls."""

import asyncio
import os
from collections.abc import Callable

from msgspec.structs import replace

from muster.common.clock import Clock
from muster.shim.keeper_channel import KeeperChannel
from muster.shim.output import OutputFile
from muster.shim.protocol import LaunchRequest, ProcessRecord, StoppedBy

LEASE_GRACE_S = 5.0
_KEEPER_S = 2.0  # how long a keeper may take to obey `kill` before it is killed itself
_LATE_S = 1.0
_MOST_STATUS, _MOST_DIGITS = 0xFFFF, 18


class ShimWorker:
    """A worker that runs or once ran.

    `started` is set once its pid is known or it has failed, `ended` once all of it is gone.
    """

    def __init__(
        self,
        record: ProcessRecord,
        output: OutputFile,
        now: Clock,
        *,
        on_print: Callable[[str], None] = lambda _: None,
        on_crash: Callable[[], None] = lambda: None,
    ) -> None:
        self.record = record
        self.output = output
        self.started, self.ended = asyncio.Event(), asyncio.Event()
        self.reported = False
        self._now, self._on_print, self._on_crash = now, on_print, on_crash
        self._line: KeeperChannel | None = None
        self._lease_s: float | None = None
        self._clocks: dict[str, asyncio.TimerHandle] = {}
        if record.state == "exited":
            self.started.set()
            self.ended.set()

    @property
    def running(self) -> bool:
        """Whether anything of it is left."""
        return not self.ended.is_set()

    def start(self, launch: LaunchRequest, line: KeeperChannel, order: bytes) -> None:
        """Have its keeper start it."""
        self._line = line
        line.begin(order, self._heard, self._printed)
        self._lease_s = launch.lease_s
        self.renew()
        if launch.timeout_s is not None:
            self._after(launch.timeout_s, lambda: self.stop(LEASE_GRACE_S, "timeout"), "timeout")

    def renew(self) -> None:
        """Start the lease again."""
        if self._lease_s is not None and self.running:
            due = asyncio.get_running_loop().time() + self._lease_s
            self._after(self._lease_s, lambda: self._lease_over(due), "lease")

    def stop(self, grace_s: float, by: StoppedBy) -> None:
        """TERM to its group, and KILL of all after `grace_s`. Again: the earlier KILL holds."""
        if not self.running or self._line is None:
            return
        if self.record.stopped_by is None:
            self.record = replace(self.record, stopped_by=by)
        if grace_s <= 0:
            self._kill()
            return
        self._line.say(b"term")
        due = asyncio.get_running_loop().time() + grace_s
        if "kill" not in self._clocks or due < self._clocks["kill"].when():
            self._after(grace_s, self._kill, "kill")

    def gone(self) -> None:
        """Its keeper is dead and reaped: what is known now is final, also where what it left cannot be taken."""
        assert self._line
        try:
            self._line.finish()
            self.output.close()
        finally:
            self._finalise()

    def _finalise(self) -> None:
        for clock in self._clocks.values():
            clock.cancel()
        self._clocks.clear()
        if not self.reported and not self.record.error:
            error = "its keeper was killed" if self.record.pid else f"it could not be started: {self._tail()}"
            self.record = replace(self.record, error=error)
        self.record = replace(self.record, state="exited", ended_at=self.record.ended_at or self._now())

    def _tail(self) -> str:
        try:
            return self.output.page(-500, 500).body.decode(errors="replace").strip()
        except OSError as error:
            return f"its output cannot be read ({error.strerror})"

    def release(self) -> None:
        """Let everyone go on who waits for it; its record is numbered and kept by now."""
        self.started.set()
        self.ended.set()
        self._on_print(self.record.key)

    def _printed(self, piece: bytes) -> None:
        self.output.append(piece)
        self._on_print(self.record.key)

    def _kill(self) -> None:
        if self._line is not None:
            self._line.say(b"kill")
            self._after(_KEEPER_S, self._line.kill, "keeper")

    def _lease_over(self, due: float) -> None:
        late = asyncio.get_running_loop().time() - due
        if late > _LATE_S:  # we were away ourselves: renewals may be waiting to be read
            self.renew()
            return
        self.stop(LEASE_GRACE_S, "lease")

    def _after(self, delay_s: float, act: Callable[[], None], name: str) -> None:
        """One clock per name: setting it again moves it."""
        if name in self._clocks:
            self._clocks[name].cancel()
        self._clocks[name] = asyncio.get_running_loop().call_later(delay_s, act)

    def _heard(self, words: bytes, sender: int) -> None:
        """A word of the keeper, or the worker's one packet, stamped with its pid. What no keeper says is ignored."""
        word, _, rest = words.partition(b" ")
        match word:
            case b"pid":
                self.record = replace(self.record, pid=sender)
            case b"started" if (ticks := _number(rest)) is not None:
                self.record = replace(self.record, start_ticks=ticks)
                self.started.set()
            case b"failed":
                self.record = replace(self.record, error=rest.decode(errors="replace"))
            case b"exited" if (status := _number(rest)) is not None and _is_ending(status):
                self._exited(status)
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
        if code and self.record.stopped_by is None:
            self._on_crash()


def _number(digits: bytes) -> int | None:
    return int(digits) if digits.isdigit() and len(digits) <= _MOST_DIGITS else None


def _is_ending(status: int) -> bool:
    return status <= _MOST_STATUS and (os.WIFEXITED(status) or os.WIFSIGNALED(status))

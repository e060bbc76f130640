"""Verifies a stored sandbox log: each event is stored once and in order, in one epoch, and none after the log's end.

These are the invariants I2 and I4. Each whole body to which an event refers must be stored and match its digest.
"""

from collections.abc import Mapping, Sequence

import msgspec

from muster.common.contracts.gateway import LOG_GONE, Verdict
from muster.common.contracts.sandbox_log import ClippedBody, Frame, FrameKind, Gap, LoggedEvent

_MOST_FAULTS = 100
_MAY_HAVE_PAYLOAD = b'"payload":"'


def referred_payloads(bodies: Sequence[bytes]) -> list[str]:
    """Return the digests of all payloads to which the events of a log refer, each once."""
    found = dict[str, None]()
    for body in bodies:
        if _MAY_HAVE_PAYLOAD in body:
            try:
                events = msgspec.json.decode(body, type=Frame).events
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # `verify` reports the frame
            found |= {event.payload: None for event in events if event.payload is not None}
    return list(found)


def verify(
    sandbox_id: str, bodies: Sequence[bytes], *, opened: bool = False, payload_faults: Mapping[str, str] = {}
) -> Verdict:
    """Check a whole sandbox log, given as its stored frames in order, and return a verdict with the faults found.

    `opened` is true if the log is known to have begun with an `opened` frame: an empty log is then a fault.
    `payload_faults` has the faults of the payloads in `referred_payloads`, by their digests.
    """
    reader = _Reader(sandbox_id, payload_faults, opened=opened)
    if opened and not bodies:
        reader.faults.append(LOG_GONE)
    for number, body in enumerate(bodies, 1):
        try:
            frame = msgspec.json.decode(body, type=Frame)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            reader.fault(number, f"cannot be read: {error}")
        else:
            reader.take(number, frame)
    last = reader.last
    return Verdict(
        sandbox_id=sandbox_id,
        ok=not reader.faults and bool(bodies),
        frames=len(bodies),
        events=reader.events,
        epoch=last.epoch if last else 0,
        ended=str(last.kind) if last and last.kind.terminal else None,
        faults=reader.faults[:_MOST_FAULTS],
        gaps=reader.gaps,
        payloads=len(reader.payloads),
    )


class _Reader:
    def __init__(self, sandbox_id: str, payload_faults: Mapping[str, str], *, opened: bool) -> None:
        self._sandbox_id, self._payload_faults, self._opened = sandbox_id, payload_faults, opened
        self.payloads = set[str]()
        self.faults = list[str]()
        self.gaps = list[str]()
        self.events = 0
        self.last: Frame | None = None
        self._finished = False

    def fault(self, number: int, text: str) -> None:
        self.faults.append(f"frame {number}: {text}")

    def take(self, number: int, frame: Frame) -> None:
        if self.last is None:
            self._begin(number, frame)
        else:
            self._follow(number, frame, self.last)
        self._inside(number, frame)
        self._finished = self._finished or frame.kind is FrameKind.FINISHED
        self.events += len(frame.events)
        self.last = frame

    def _begin(self, number: int, frame: Frame) -> None:
        if frame.kind not in (FrameKind.OPENED, FrameKind.FENCED):
            self.fault(number, f"a log begins with opened or fenced, not {frame.kind}")
        elif self._opened and frame.kind is not FrameKind.OPENED:
            self.fault(number, f"begins with {frame.kind}, but its worker was started: earlier frames are missing")
        if frame.first != 1:
            self.fault(number, f"begins at seq {frame.first}, not 1")

    def _follow(self, number: int, frame: Frame, last: Frame) -> None:
        if last.kind.terminal:
            self.fault(number, f"{frame.kind} after the end ({last.kind})")
        if frame.kind is FrameKind.OPENED:
            self.fault(number, "opened twice")
        if self._finished and not frame.kind.terminal:
            self.fault(number, f"{frame.kind} after finished")
        if frame.first != last.next:
            self.fault(number, f"begins at seq {frame.first}, but {last.next} is expected")
        if frame.epoch != last.epoch:
            self.fault(number, f"epoch {frame.epoch} in a log of epoch {last.epoch}")
        if (frame.task_id, frame.agent_id) != (last.task_id, last.agent_id):
            self.fault(number, "another task or agent than before")
        if frame.at < last.at:
            self.fault(number, "its time runs backwards")

    def _inside(self, number: int, frame: Frame) -> None:
        if frame.sandbox_id != self._sandbox_id:
            self.fault(number, f"belongs to {frame.sandbox_id}")
        if frame.kind is FrameKind.GAP:
            self._gap(number, frame)
        elif frame.next != frame.first + len(frame.events):
            self.fault(number, f"has next {frame.next} after {len(frame.events)} events from {frame.first}")
        for index, event in enumerate(frame.events):
            if event.seq != frame.first + index:
                self.fault(number, f"event {index} has seq {event.seq}, not {frame.first + index}")
            if event.payload is not None:
                self._payload(number, event, event.payload)

    def _payload(self, number: int, event: LoggedEvent, sha256: str) -> None:
        self.payloads.add(sha256)
        if wrong := self._payload_faults.get(sha256):
            self.fault(number, f"the whole body {sha256} of the event with seq {event.seq} {wrong}")
        try:
            told = msgspec.json.decode(bytes(event.body), type=ClippedBody).sha256
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self.fault(number, f"the body of the event with seq {event.seq} has no head and tail: {error}")
        else:
            if told != sha256:
                self.fault(number, f"the event with seq {event.seq} names the digest {told}, but refers to {sha256}")

    def _gap(self, number: int, frame: Frame) -> None:
        try:
            stated = msgspec.json.decode(frame.body, type=Gap)
        except msgspec.DecodeError as error:
            self.fault(number, f"a gap that cannot be read: {error}")
            return
        if frame.events or frame.next <= frame.first:
            self.fault(number, "a gap must contain no events and leave out at least one seq")
        self.gaps.append(f"{frame.first}-{frame.next - 1}: {stated.why}")

"""Creates JetStream streams, and changes the configuration of an existing stream to the one that its owner declares."""

from datetime import datetime
from typing import Any, Literal

import msgspec

from muster.common.bus.connection import REQUEST_DEADLINE_S, Bus
from muster.common.contract import decode, encode
from muster.common.faults import Fault, TimedOut, Unavailable

STREAM_NOT_FOUND = 10059
NAME_IN_USE = 10058
_DAY_S = 86_400.0


class ApiError(msgspec.Struct, frozen=True):
    """An error in a reply of the JetStream API."""

    code: int = 500
    err_code: int = 0
    description: str = ""


class JetStreamReply(msgspec.Struct, frozen=True):
    """The common part of all replies of the JetStream API."""

    error: ApiError | None = None


class JetStreamRefusal(Fault):
    """The JetStream API refused a request. `error` is the API's error."""

    status, code = 500, "jetstream_refused"

    def __init__(self, text: str = "", *, field: str | None = None, error: ApiError | None = None) -> None:
        super().__init__(text, field=field)
        self.error = error or ApiError()


class StreamSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration of a stream, as its owner declares it. A limit that is not set means unlimited."""

    name: str
    subjects: list[str]
    storage: Literal["file", "memory"] = "file"
    per_subject: int = -1
    max_age_s: float = 0.0
    max_bytes: int = -1
    discard_new: bool = False
    deny_delete: bool = False
    deny_purge: bool = False
    compress: bool = False
    atomic_batches: bool = False

    def kept_for(self, days: int) -> "StreamSpec":
        """Return the same stream configuration with a maximum age in days (0: no maximum)."""
        return msgspec.structs.replace(self, max_age_s=days * _DAY_S)

    def config(self) -> dict[str, Any]:
        """Return the stream's configuration as the JetStream API expects it."""
        return {
            "name": self.name,
            "subjects": self.subjects,
            "storage": self.storage,
            "retention": "limits",
            "max_msgs_per_subject": self.per_subject,
            "max_age": int(self.max_age_s * 1e9),
            "max_bytes": self.max_bytes,
            "discard": "new" if self.discard_new else "old",
            "deny_delete": self.deny_delete,
            "deny_purge": self.deny_purge,
            "compression": "s2" if self.compress else "none",
            "allow_direct": True,
            "allow_atomic": self.atomic_batches,
            "num_replicas": 1,
            "republish": {"src": ">", "dest": when_stored(">"), "headers_only": True},
            "duplicate_window": int(min(120.0, self.max_age_s or 120.0) * 1e9),
        }


def when_stored(subject: str) -> str:
    """Return the subject on which the server announces that a message of `subject` is stored.

    A subscriber to `subject` itself receives the message before it is stored, so its read could miss the message.
    """
    return f"stored.{subject}"


DEAD_LETTERS = StreamSpec(name="DEAD_LETTERS", subjects=["deadletter.>"], max_age_s=30 * _DAY_S)


async def jetstream(bus: Bus, verb: str, body: object = None, *, timeout_s: float = REQUEST_DEADLINE_S) -> bytes:
    """Send a request to the JetStream API (`$JS.API.<verb>`). Raises `JetStreamRefusal`, `Unavailable`, `TimedOut`."""
    answer = await bus.call(f"$JS.API.{verb}", encode(body) if body is not None else b"", timeout_s=timeout_s)
    if error := decode(answer.data, JetStreamReply).error:
        if error.err_code == STREAM_NOT_FOUND:
            raise Unavailable(f"{verb}: the stream does not exist; its owner creates the stream at start")
        raise JetStreamRefusal(f"{verb}: {error.description}", error=error)
    return answer.data


async def ensure_stream(bus: Bus, spec: StreamSpec) -> None:
    """Create a stream, or change the existing stream to `spec`. Several replicas may call this at the same time.

    A stream that denies deletes or purges keeps denying them, whatever `spec` contains, because the NATS server refuses
    to allow them again.
    """
    config = spec.config()
    try:
        await jetstream(bus, f"STREAM.CREATE.{spec.name}", config)
    except JetStreamRefusal as refusal:
        if refusal.error.err_code != NAME_IN_USE:
            raise
        denied = decode(await jetstream(bus, f"STREAM.INFO.{spec.name}"), _Described).config
        config["deny_delete"] |= denied.deny_delete
        config["deny_purge"] |= denied.deny_purge
        await jetstream(bus, f"STREAM.UPDATE.{spec.name}", config)


class StreamState(msgspec.Struct, frozen=True):
    """The number of messages and bytes in a stream, and its first and last sequence."""

    messages: int = 0
    bytes: int = 0
    first_seq: int = 0
    last_seq: int = 0


class _Denied(msgspec.Struct, frozen=True):
    deny_delete: bool = False
    deny_purge: bool = False


class _Described(msgspec.Struct, frozen=True):
    state: StreamState
    config: _Denied
    created: str = ""


class _LastWrite(msgspec.Struct, frozen=True):
    last_ts: datetime


class _TimesOfStream(msgspec.Struct, frozen=True):
    created: datetime
    state: _LastWrite


class StreamTimes(msgspec.Struct, frozen=True):
    """When a stream was created, or created again after it was lost, and when a message was last written to it."""

    created_at: datetime
    written_at: datetime


async def stream_times(bus: Bus, name: str) -> StreamTimes:
    """Return the times of a stream, by the clock of the NATS server. Raises `Unavailable` if it does not exist."""
    times = decode(await jetstream(bus, f"STREAM.INFO.{name}"), _TimesOfStream)
    return StreamTimes(times.created, max(times.created, times.state.last_ts))


class StreamIdentity:
    """Detects that a stream was replaced by a new stream of the same name, whose positions begin at 1 again.

    A NATS server that restarts with an empty store has lost the stream, and the stream's owner creates it again. So the
    creation time of the stream is compared after each reconnection.
    """

    def __init__(self, bus: Bus, name: str) -> None:
        self._bus, self._name = bus, name
        self._created, self._compared_at = "", -1

    async def changed(self) -> bool:
        """Return whether the stream was replaced by a new one since the last call.

        Raises `TimedOut`, or `Unavailable` while the stream does not exist.
        """
        reconnects = self._bus.reconnects
        if reconnects == self._compared_at:
            return False
        described = decode(await jetstream(self._bus, f"STREAM.INFO.{self._name}"), _Described)
        before, self._created, self._compared_at = self._created, described.created, reconnects
        return before not in ("", self._created)

    async def refuse_changed(self) -> None:
        """Raise `Unavailable` if the stream was replaced by a new one, so that a client's position is invalid."""
        try:
            changed = await self.changed()
        except (Unavailable, TimedOut):
            return  # The stream's creation time cannot be read now. The next call reads it.
        if changed:
            raise Unavailable(f"the stream {self._name} was lost and created again; read it from its first message")


async def stream_state(bus: Bus, name: str) -> StreamState:
    """Return the number of messages and bytes in a stream. Raises `Unavailable` if the stream does not exist."""
    return decode(await jetstream(bus, f"STREAM.INFO.{name}"), _Described).state

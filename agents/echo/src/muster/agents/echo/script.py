"""The steps an echo agent plays, as `metadata["steps"]` of its task writes them."""

from typing import Any, Literal

import msgspec

from muster.common.contracts.doors import Handoff


class Write(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file in the workspace."""

    path: str
    text: str


class EchoQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model request with the conversation so far, and `text` as the last word."""

    text: str = ""
    model: str | None = None


class EchoStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step; see the README for what each field does. `epoch` plays it in that epoch only."""

    act: str | None = None
    observe: str = "ok"
    times: int = 1
    every_ms: float = 0
    until_message: bool = False
    write: Write | None = None
    ask: EchoQuestion | None = None
    sleep_ms: float = 0
    flood: int = 0
    exit: int | None = None
    finish: Literal["success", "failure"] | None = None
    summary: str = ""
    epoch: int | None = None

    def __post_init__(self) -> None:
        verbs = [
            self.act is not None,
            self.write,
            self.ask,
            self.sleep_ms,
            self.flood,
            self.exit is not None,
            self.finish,
        ]
        if sum(map(bool, verbs)) != 1:
            raise ValueError("a step is exactly one of act, write, ask, sleep_ms, flood, exit, finish")


def steps_of(handoff: Handoff) -> list[EchoStep]:
    """The steps of a task; one act and a good end if it names none. Raises `msgspec.ValidationError`."""
    written: list[dict[str, Any]] | None = handoff.metadata.get("steps")
    if written is None:
        return [EchoStep(act="true"), EchoStep(finish="success", summary="echoed")]
    return msgspec.convert(written, list[EchoStep])

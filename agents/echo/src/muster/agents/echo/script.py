"""The types of the steps of an echo task, which the task contains as `metadata["steps"]`."""

from typing import Any, Literal

import msgspec

from muster.common.contracts.worker_api import Handoff


class Write(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that the step writes in the workspace."""

    path: str
    text: str


class EchoQuestion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model request, which contains the conversation so far and then `text` as the last message."""

    text: str = ""
    model: str | None = None


class EchoStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One step of an echo task; the README describes each field. A step with `epoch` is skipped in all other epochs."""

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
        actions = [
            self.act is not None,
            self.write,
            self.ask,
            self.sleep_ms,
            self.flood,
            self.exit is not None,
            self.finish,
        ]
        if sum(map(bool, actions)) != 1:
            raise ValueError("a step must have exactly one of act, write, ask, sleep_ms, flood, exit and finish")


def steps_of(handoff: Handoff) -> list[EchoStep]:
    """Return the steps of a task, by default one action and a successful end. Raises `msgspec.ValidationError`."""
    steps: list[dict[str, Any]] | None = handoff.metadata.get("steps")
    if steps is None:
        return [EchoStep(act="true"), EchoStep(finish="success", summary="echoed")]
    return msgspec.convert(steps, list[EchoStep])

"""What a model server can do with a request: work, fail, lie, stop in the middle, or stay silent.

A behaviour is independent of the provider's format. `answer` says what it does with one request:

- `Said`: the model's next message; the shape encodes it.
- `Refused`: an error; the shape encodes it with the status and body of its provider.
- `Raw`: bytes that no shape touches.
- `Hang`, `HalfAnswer` and `Slow` concern the connection, so the server itself handles them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.support.model_server.requests import ModelRequest
from tests.support.model_server.steps import BUGFIX, Step, Text, ToolCall, filled, values_in

FailureKind = Literal["rate_limit", "server", "context"]


@dataclass(frozen=True)
class Said:
    """The model's message. With `cut` the message ends at the token limit, and the call's JSON is not complete."""

    text: str = ""
    call: ToolCall | None = None
    cut: bool = False


@dataclass(frozen=True)
class Refused:
    """An error of the provider. `limit` is the context length in tokens, for the texts that name it."""

    kind: FailureKind
    status: int
    message: str = ""
    limit: int = 0
    retry_after_s: float | None = None


@dataclass(frozen=True)
class Raw:
    """A response that is sent as it is."""

    status: int
    body: bytes
    content_type: str
    headers: tuple[tuple[str, str], ...] = ()


Outcome = Said | Refused | Raw


class Behaviour:
    """Answers requests. A behaviour has no state, so that retries and restarts do not change its answers."""

    def answer(self, request: ModelRequest) -> Outcome:
        """Return what the server sends for this request."""
        raise NotImplementedError


@dataclass(frozen=True)
class Good(Behaviour):
    """A coding agent. The number of assistant messages in the request selects the step; the last step repeats.

    An agent that shortens its history sends fewer assistant messages, and therefore gets earlier steps again.
    """

    steps: Sequence[Step] = BUGFIX

    def answer(self, request: ModelRequest) -> Outcome:
        step = self.steps[min(request.answered, len(self.steps) - 1)]
        match filled(step, values_in(request.prompt)):
            case ToolCall() as call if not request.tools:
                # A request without tools is no agent's (`muster model test` sends one); a call would be refused.
                return Said(call.say or "Yes.")
            case ToolCall() as call:
                return Said(call.say, call)
            case Text(said):
                return Said(said)


@dataclass(frozen=True)
class RateLimited(Behaviour):
    """429 with the header Retry-After. Without `retry_after_s` the header is missing."""

    retry_after_s: float | None = 1

    def answer(self, request: ModelRequest) -> Outcome:
        return Refused("rate_limit", 429, retry_after_s=self.retry_after_s)


@dataclass(frozen=True)
class ServerError(Behaviour):
    """A failure of the server, with the server's own sentence."""

    message: str = (
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB "
        "of which 1.21 GiB is free."
    )
    status: int = 500

    def answer(self, request: ModelRequest) -> Outcome:
        return Refused("server", self.status, self.message)


@dataclass(frozen=True)
class Garbage(Behaviour):
    """200 with a body that is not JSON, as a wrong port or a captive portal sends it."""

    body: bytes = b"<html><body>It works!</body></html>"
    content_type: str = "text/html"

    def answer(self, request: ModelRequest) -> Outcome:
        return Raw(200, self.body, self.content_type)


@dataclass(frozen=True)
class WrongShape(Garbage):
    """200 with JSON that is no completion."""

    body: bytes = b'{"status":"ok"}'
    content_type: str = "application/json"


@dataclass(frozen=True)
class ContextOverflow(Behaviour):
    """Refuses a prompt of more than `limit` tokens; answers shorter ones as `then`."""

    limit: int = 0
    then: Behaviour = field(default_factory=Good)

    def answer(self, request: ModelRequest) -> Outcome:
        if request.prompt_tokens > self.limit:
            return Refused("context", 400, limit=self.limit)
        return self.then.answer(request)


@dataclass(frozen=True)
class Length(Behaviour):
    """Ends at the token limit in the middle of a tool call, unless the request allows `enough` tokens."""

    enough: int = 16_384
    then: Behaviour = field(default_factory=Good)

    def answer(self, request: ModelRequest) -> Outcome:
        said = self.then.answer(request)
        allowed = request.max_tokens
        if isinstance(said, Said) and allowed is not None and allowed < self.enough:
            return Said(said.text, said.call, cut=True)
        return said


@dataclass(frozen=True)
class Empty(Behaviour):
    """A message without content and without a tool call."""

    def answer(self, request: ModelRequest) -> Outcome:
        return Said()


@dataclass(frozen=True)
class Runaway(Behaviour):
    """Calls a harmless tool for ever, each time with another text and another command."""

    tool: str = "terminal"

    def answer(self, request: ModelRequest) -> Outcome:
        turn = request.answered + 1
        command: dict[str, Any] = {"command": f"echo checking {turn} && ls"}
        return Said(f"I look once more, now for the {turn}. time.", ToolCall(self.tool, command))


@dataclass(frozen=True)
class Question(Good):
    """Asks instead of working."""

    steps: Sequence[Step] = (Text("I found the cause in splitbill.py. Should I fix it?"),)


@dataclass(frozen=True)
class Redirect(Behaviour):
    """Sends the client to another address; `to` is a whole URL."""

    to: str
    status: int = 307

    def answer(self, request: ModelRequest) -> Outcome:
        return Raw(self.status, b"", "text/plain", (("location", self.to),))


@dataclass(frozen=True)
class HalfAnswer(Behaviour):
    """Sends the first half of the answer of `then`, and closes the connection."""

    then: Behaviour = field(default_factory=Good)

    def answer(self, request: ModelRequest) -> Outcome:
        return self.then.answer(request)


@dataclass(frozen=True)
class Hang(Behaviour):
    """Takes the request and sends nothing until `ModelServer.release` is called; then answers as `then`."""

    then: Behaviour = field(default_factory=Good)

    def answer(self, request: ModelRequest) -> Outcome:
        return self.then.answer(request)


@dataclass(frozen=True)
class Slow(Hang):
    """Answers as `then`, but only after some seconds; `ModelServer.release` shortens the wait."""

    after_s: float = 2.0


BY_NAME: dict[str, Behaviour] = {
    "good": Good(),
    "limited": RateLimited(),
    "cuda": ServerError(),
    "unavailable": ServerError("The model is being loaded.", 503),
    "garbage": Garbage(),
    "wrong-shape": WrongShape(),
    "half": HalfAnswer(),
    "hang": Hang(),
    "slow": Slow(),
    "length": Length(),
    "overflow": ContextOverflow(),
    "empty": Empty(),
    "runaway": Runaway(),
    "question": Question(),
    # A name that no resolver knows: a client that follows the redirect fails visibly.
    "redirect": Redirect("http://elsewhere.invalid/v1/chat/completions"),
}
"""Behaviours for the command line, and the models that a server serves unless told otherwise."""

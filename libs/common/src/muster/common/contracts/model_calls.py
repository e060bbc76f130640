"""The records of model calls: a call that begins, its use of tokens and money, and the reason why a call failed."""

from datetime import datetime
from typing import Annotated, Literal

import msgspec

from muster.common.contract import Event, Message
from muster.common.contracts.attempts import UsedSoFar
from muster.common.contracts.fields import Effort, OutputTokens, Temperature

Limit = Literal["steps", "tokens", "cost", "time"]
"""The limit that ended an attempt. A step is one model call."""
FailureKind = Literal[
    "unreachable",
    "timeout",
    "rate_limited",
    "server_error",
    "unreadable",
    "empty",
    "truncated",
    "context_overflow",
    "key_refused",
    "unknown_model",
    "refused",
    "limit",
]
"""The class of a failed model call. `truncated` is an answer that was cut at the limit of output tokens."""


class ModelFailed(Message):
    """The body of a `model_failed` frame: a model call of the sandbox failed, or the gateway refused to make it."""

    request_id: str
    model: str
    provider: str
    kind: FailureKind
    error: str
    """The provider's own sentence, or the gateway's if the gateway refused the call."""
    status: int | None = None
    """The provider's HTTP status; None if the provider sent none."""
    tries: int = 1
    """The number of calls of this sandbox that failed in a row, up to this call."""
    retry_at: datetime | None = None
    """The time from which the worker may call the model again; None if a further call fails too."""
    limit: Limit | None = None
    """The limit of the task that the call would have exceeded."""
    step: int = 0
    """The number of calls of this sandbox up to this one, so that a reader can tell which call was the last."""

    @property
    def sentence(self) -> str:
        """One sentence for people: the model, the kind of failure, the status, and the provider's own words."""
        if self.limit is not None:
            return self.error
        times = "failed" if self.tries == 1 else f"failed {self.tries} times in a row"
        status = f" {self.status}" if self.status else ""
        return f"the model {self.model} {times} ({self.kind.replace('_', ' ')}{status}): {self.error}"


class ModelCalled(Event, subject="sandbox.{partition}.{sandbox_id}.model"):
    """The use of one model call: tokens, cost and time. Stream `MODEL_CALLS`; `request_id` is the message id.

    `usage` is `measured` if the provider reported it. It is `reserved` if the call had no answer in time or its gateway
    was killed, so that the real use is unknown. Then tokens and cost are the most that the call may have used,
    estimated from the request. `timeouts` is the number of consecutive calls of this sandbox without an answer in time,
    up to this call.
    """

    partition: str
    sandbox_id: str
    task_id: str
    epoch: int
    request_id: str
    at: datetime
    model: str
    provider: str
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float
    seconds: float
    status: int
    markers: list[str] = []
    usage: Literal["measured", "reserved"] = "measured"
    timeouts: int = 0
    priced: bool = True
    """Whether the price of the model is known. If not, `cost_usd` is 0."""
    used: UsedSoFar = UsedSoFar()
    """The use of the sandbox up to this call."""
    failed: ModelFailed | None = None
    """The reason why the call failed; None if the model answered."""


class ModelAsked(Event, subject="sandbox.{partition}.{sandbox_id}.asked.{request_id}"):
    """A model call that a gateway is about to make. Stream `MODEL_ASKED`, one message per call.

    If the gateway has not recorded the use of the call by `settle_by`, `call` is recorded as its use. An empty body
    replaces this message when the use of the call is recorded.
    """

    partition: str
    sandbox_id: str
    request_id: str
    settle_by: datetime
    call: ModelCalled


class ModelSettings(Message):
    """The settings of a model that a worker needs. An unset field means that the worker chooses a value."""

    max_output_tokens: OutputTokens | None = None
    """The most tokens of one answer."""
    context_tokens: Annotated[int, msgspec.Meta(ge=1, le=100_000_000)] | None = None
    """The size of the model's context window in tokens."""
    temperature: Temperature | None = None
    effort: Effort | None = None
    """The reasoning effort, such as low, medium or high."""
    known_as: str | None = None
    """The name under which LiteLLM knows the model's abilities, if `model` is the name of a configured entry."""

"""The messages between `muster model test` and the process that makes the test calls, one JSON line each."""

from typing import Literal

from muster.common.contract import Message
from muster.common.contracts.model_calls import FailureKind

ModelTestStep = Literal["import", "word", "tool"]
"""`import`: LiteLLM is imported. `word`: the model is asked for a word. `tool`: the model is asked to call a tool."""


class ModelTestRequest(Message):
    """The model to test. `ends_at_s` is the deadline on the clock `time.monotonic`, which both processes share."""

    model: str
    ends_at_s: float


class FailedTestCall(Message):
    """The reason why a test call failed."""

    kind: FailureKind
    error: str
    """The provider's own sentence, or the gateway's if no provider was called."""
    status: int | None = None
    """The provider's HTTP status; None if the provider sent none."""
    step: ModelTestStep = "word"


class ModelTestResult(Message):
    """The result of the test calls. `failed` is None if the model answered."""

    model: str
    provider: str = ""
    failed: FailedTestCall | None = None
    answer: str = ""
    """The beginning of the model's first answer."""
    latency_s: float | None = None
    """Seconds from the first request to its answer."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Tokens of both calls together."""
    calls_tools: bool | None = None
    """Whether the model called the tool that it was given; None if this was not tested."""
    tool_error: str = ""
    """The reason why the model did not call the tool."""
    priced: bool = False
    """Whether the price of the model is known, so that the costs of a task can be limited."""
    cost_usd: float = 0.0


class ModelTestLine(Message):
    """A line that the test process prints: the step that begins, or at the end the result."""

    step: ModelTestStep | None = None
    result: ModelTestResult | None = None

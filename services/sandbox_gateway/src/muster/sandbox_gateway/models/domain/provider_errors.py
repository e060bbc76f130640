"""Exception classes for failed model calls, each with the class of the failure that the sandbox's log shows.

A worker may repeat a call only after the statuses 408, 409, 429 and 5xx.
"""

from typing import ClassVar

from muster.common.contracts.model_calls import FailureKind, Limit
from muster.common.faults import Fault, TimedOut, TooMany, Unavailable


class ModelFault(Fault):
    """A model call failed. The text is the provider's own sentence, or the gateway's if no provider was called.

    `provider_status` is the HTTP status of the provider's answer. `asked_pause_s` is the pause that the provider asks
    for, in seconds.
    """

    kind: ClassVar[FailureKind] = "refused"

    def __init__(
        self,
        text: str = "",
        *,
        field: str | None = None,
        provider_status: int | None = None,
        asked_pause_s: float = 0.0,
    ) -> None:
        super().__init__(text, field=field)
        self.provider_status, self.asked_pause_s = provider_status, asked_pause_s


class ModelRefused(ModelFault):
    """A model request is invalid: the provider refuses it, or the gateway does not send it. A retry fails too."""

    status, code = 400, "model_refused"


class ModelContextExceeded(ModelFault):
    """The request is longer than the model's context window. The worker must shorten the conversation."""

    status, code = 400, "model_context_exceeded"
    kind = "context_overflow"


class ModelAnswerCut(ModelFault):
    """The model reached its limit of output tokens before its answer was complete, also with a higher limit."""

    status, code = 400, "model_answer_cut"
    kind = "truncated"


class ModelKeyRefused(ModelFault):
    """The model's provider refuses this deployment's API key, or no API key is set. A retry fails too."""

    status, code = 403, "model_key_refused"
    kind = "key_refused"


class ModelUnknown(ModelFault):
    """No allowed provider has a model with the requested name. A retry fails too."""

    status, code = 404, "model_unknown"
    kind = "unknown_model"


class ModelTooSlow(ModelFault):
    """Too many model calls of an attempt timed out in a row, so the gateway makes no more calls for this attempt."""

    status, code = 400, "model_too_slow"
    kind = "timeout"


class ModelGivenUp(ModelFault):
    """Too many model calls of an attempt failed in a row, so the gateway makes no more calls for this attempt."""

    status, code = 400, "model_given_up"
    kind = "server_error"


class ModelLimitReached(ModelFault):
    """A limit of the task is reached, so the gateway makes no more model calls for the task."""

    status, code = 403, "model_limit_reached"
    kind = "limit"

    def __init__(self, text: str = "", *, field: str | None = None, limit: Limit = "steps") -> None:
        super().__init__(text, field=field)
        self.limit: Limit = limit


class ModelRateLimited(ModelFault, TooMany):
    """The provider's rate limit or quota is used up. The same call may succeed after `asked_pause_s` seconds."""

    status, code = 429, "model_rate_limited"
    kind = "rate_limited"


class ModelUnreachable(ModelFault, Unavailable):
    """No connection to the provider was possible, or the connection ended during the answer."""

    status, code = 503, "model_unreachable"
    kind = "unreachable"


class ModelServerFailed(ModelFault, Unavailable):
    """The provider answered with an error of its own server."""

    status, code = 503, "model_server_failed"
    kind = "server_error"


class ModelTimedOut(ModelFault, TimedOut):
    """The model did not answer before the deadline. The provider may have generated an answer."""

    status, code = 504, "model_timed_out"
    kind = "timeout"


class ModelUnreadable(ModelFault):
    """The provider's answer cannot be read, or the provider failed in a way that no other fault describes."""

    status, code = 502, "model_failed"
    kind = "unreadable"


class ModelSilent(ModelFault):
    """The model answered with neither text nor a tool call."""

    status, code = 502, "model_silent"
    kind = "empty"

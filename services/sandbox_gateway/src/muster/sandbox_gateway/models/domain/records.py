"""Makes the records of a model call that has ended: its use, and the reason if it failed."""

from datetime import datetime, timedelta

import msgspec

from muster.common.contracts.model_calls import ModelCalled, ModelFailed
from muster.common.faults import Fault, TimedOut
from muster.sandbox_gateway.models.domain.answers import Completion
from muster.sandbox_gateway.models.domain.provider_errors import ModelFault, ModelLimitReached
from muster.sandbox_gateway.models.domain.retries import pause_s

_MOST_ERROR_CHARS = 2_000


def settled(reserved: ModelCalled, answer: Completion | None, fault: Fault | None) -> ModelCalled:
    """Return the record of a model call that has ended with an answer, a fault or both (an answer without use).

    A call that timed out is metered with its reserved usage, because the provider may have generated an answer. The
    same holds for an answer of a server that does not report its usage.
    """
    if fault is not None and fault.status == TimedOut.status:
        return msgspec.structs.replace(reserved, timeouts=reserved.timeouts + 1)
    if answer is None:
        status = fault.status if fault else Fault.status
        return msgspec.structs.replace(
            reserved, prompt_tokens=0, completion_tokens=0, cost_usd=0.0, status=status, usage="measured"
        )
    if not answer.prompt_tokens and not answer.completion_tokens:  # The server does not report its usage.
        return msgspec.structs.replace(reserved, status=fault.status if fault else 200, timeouts=0)
    return msgspec.structs.replace(
        reserved,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        cost_usd=answer.cost_usd or 0.0,
        priced=answer.cost_usd is not None,
        status=fault.status if fault else 200,
        usage="measured",
        timeouts=0,
    )


def failure(call: ModelCalled, fault: Fault, *, tries: int, now: datetime) -> ModelFailed:
    """Return the reason why a call failed. Sets `retry_after_s` of a fault after which the worker may call again."""
    model_fault = fault if isinstance(fault, ModelFault) else None
    temporary = fault.status in (408, 409, 429) or fault.status >= 500  # noqa: PLR2004 - HTTP statuses
    if temporary:
        fault.retry_after_s = pause_s(tries, model_fault.asked_pause_s if model_fault else 0.0)
    return ModelFailed(
        request_id=call.request_id,
        model=call.model,
        provider=call.provider,
        kind=model_fault.kind if model_fault else "server_error",
        error=_storable(str(fault))[:_MOST_ERROR_CHARS],
        status=model_fault.provider_status if model_fault else None,
        tries=tries,
        retry_at=now + timedelta(seconds=fault.retry_after_s) if fault.retry_after_s is not None else None,
        limit=fault.limit if isinstance(fault, ModelLimitReached) else None,
        step=call.used.steps,
    )


def _storable(text: str) -> str:
    """Return a text that JSON and PostgreSQL can hold: without NUL and lone surrogates."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()

"""Counts the model calls, tokens and US dollars of a task, and decides whether a further call exceeds a limit.

The limits and the use of the task's earlier attempts are claims of the sandbox's token, so that they need no look-up
and a worker cannot change them.
"""

from muster.common.contracts.attempts import UsedSoFar
from muster.common.contracts.model_calls import Limit, ModelCalled
from muster.sandbox_gateway.models.domain.provider_errors import ModelLimitReached
from muster.sandbox_gateway.sandboxes.domain.tokens import CallLimits


def plus(used: UsedSoFar, call: ModelCalled) -> UsedSoFar:
    """Return the use of a sandbox with one more call."""
    return UsedSoFar(steps=used.steps + 1, tokens=used.tokens + tokens_of(call), cost_usd=used.cost_usd + call.cost_usd)


def settled(used: UsedSoFar, reserved: ModelCalled, measured: ModelCalled) -> UsedSoFar:
    """Return the use of a sandbox after a call has ended, with its measured instead of its reserved usage."""
    return UsedSoFar(
        steps=used.steps,
        tokens=max(0, used.tokens + tokens_of(measured) - tokens_of(reserved)),
        cost_usd=max(0.0, used.cost_usd + measured.cost_usd - reserved.cost_usd),
    )


def tokens_of(call: ModelCalled) -> int:
    """Return the tokens of a call, read and written."""
    return call.prompt_tokens + call.completion_tokens


def reached(limits: CallLimits, used: UsedSoFar, *, priced: bool) -> ModelLimitReached | None:
    """Return the refusal of the next model call, or None if the limits allow it.

    With a limit of costs, a model without a known price is refused, because its cost could not be counted.
    """
    if limits.max_steps is not None and limits.steps + used.steps >= limits.max_steps:
        return _refusal("steps", f"{limits.max_steps:,} model calls", "--max-steps")
    if limits.max_tokens is not None and limits.tokens + used.tokens >= limits.max_tokens:
        return _refusal("tokens", f"{limits.max_tokens:,} tokens", "--max-tokens")
    if limits.max_cost_usd is None:
        return None
    if limits.cost_usd + used.cost_usd >= limits.max_cost_usd:
        return _refusal("cost", f"{limits.max_cost_usd:g} US dollars", "--max-cost")
    if not priced:
        text = (
            "the task has a limit of costs, but the price of its model is unknown: add the prices to the model's entry "
            "(`muster model add … --input-price USD --output-price USD`), or submit the task without --max-cost"
        )
        return ModelLimitReached(text, field="$.max_cost_usd", limit="cost")
    return None


def _refusal(limit: Limit, amount: str, option: str) -> ModelLimitReached:
    text = f"the task's limit of {amount} is reached; `muster task submit {option}` sets a higher limit"
    return ModelLimitReached(text, limit=limit)

"""Makes the SDK's client of the model and its condenser, from the settings in the handoff.

The client calls the model at the gateway. The gateway knows the provider and its key. A failed call is repeated as
often as the gateway allows, after the pause that the gateway asks for, so that both the sandbox's log and the worker
agree about the time of the next call.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from muster.agents.openhands.options import Condenser
from muster.common.contracts.worker_api import Handoff

if TYPE_CHECKING:
    from openhands.sdk import LLM
    from openhands.sdk.context.condenser import LLMSummarizingCondenser

_MOST_RETRIES = 100_000
"""The gateway ends the retries: after too many failures it refuses the call with a status that is not repeated."""
_CONTEXT_TOKENS = 128_000
"""The size of the context window, in tokens, that is assumed if neither the settings nor LiteLLM contain the size."""


def model_client(
    handoff: Handoff, base_url: str, before_retry: Callable[[int, int, BaseException | None], None]
) -> "LLM":
    """Return the client of the task's model. `before_retry` is called before a failed call is repeated, and may wait.

    A setting that the task and the model's entry leave open gets the SDK's value for this model.
    """
    from pydantic import SecretStr

    from openhands.sdk import LLM

    settings = handoff.model_settings
    fields: dict[str, Any] = {
        "model": f"openai/{handoff.model}",
        "model_canonical_name": settings.known_as,
        "base_url": f"{base_url}/v1",
        "api_key": SecretStr(handoff.token),
        "usage_id": "agent",
        "api_mode": "chat",  # The gateway offers only the chat API, also for models with other APIs.
        "num_retries": _MOST_RETRIES,
        "retry_multiplier": 0.0,  # The pause is in `before_retry`.
        "retry_min_wait": 0,
        "retry_max_wait": 0,
        "retry_listener": before_retry,
        "timeout": int(handoff.model_deadline_s),
        "max_input_tokens": settings.context_tokens,
        "max_output_tokens": settings.max_output_tokens,
        "temperature": settings.temperature,
        "reasoning_effort": settings.effort,
    }
    client = LLM(**fields)
    if not client.effective_max_input_tokens:
        fields["max_input_tokens"] = _CONTEXT_TOKENS
        client = LLM(**fields)
    return client


def condenser_of(client: "LLM", options: Condenser) -> "LLMSummarizingCondenser | None":
    """Return the condenser that summarizes the older part of a conversation when it becomes too long, or None.

    The condenser also acts when the model refuses a request as longer than its context window.
    """
    from openhands.sdk.context.condenser import LLMSummarizingCondenser

    if not options.enabled:
        return None
    summarizer = client.model_copy(update={"usage_id": "condenser"})
    tokens = None if options.max_tokens is UNSET else options.max_tokens
    return LLMSummarizingCondenser(
        llm=summarizer, max_size=options.max_events, max_tokens=tokens, keep_first=options.keep_first
    )

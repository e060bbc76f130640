"""Calls hosted models through LiteLLM. LiteLLM reads the API keys from the environment of this process.

All code of LiteLLM runs on `ModelThreads`, including its import and the look-up of prices, because much of this code
blocks the event loop that runs it.
"""

import asyncio
import os
import re
from collections.abc import Mapping
from typing import Any

import structlog

from muster.common.faults import Fault, InvalidMessage, TimedOut, TooMany, Unavailable
from muster.common.model_keys import key_variables, missing_key, provider_of
from muster.sandbox_gateway.models.adapters.registry import Completion
from muster.sandbox_gateway.models.adapters.threads import ModelThreads
from muster.sandbox_gateway.models.domain.provider_errors import (
    ModelFailed,
    ModelKeyRefused,
    ModelRefused,
    ModelUnknown,
)
from muster.sandbox_gateway.models.domain.requests import PASSED

log = structlog.get_logger()

_KEYLESS = re.compile(
    r"missing credentials|credentials were not found|unable to locate credentials"
    r"|api_key is not set|missing \w+ api key",
    re.IGNORECASE,
)
"""Error texts for a missing key, of providers that `model_keys` does not know. Their exception classes differ."""
_TRACEBACK = "Traceback (most recent call last)"
_NO_PROVIDER = "LLM Provider NOT provided"
"""LiteLLM's error text for an unknown provider. Needed because the error has the same class as any bad request."""


class LiteLLMModels:
    """The adapter for all models that LiteLLM can call."""

    def __init__(self, threads: ModelThreads, *, timeout_s: float, env: Mapping[str, str] = os.environ) -> None:
        self._threads, self._timeout_s, self._env = threads, timeout_s, env
        self._importing = asyncio.Lock()
        self._litellm: Any = None

    def provider_of(self, model: str) -> str:
        """Return the name of the provider of a model, as LiteLLM spells this name."""
        return provider_of(model)

    def check(self, model: str) -> None:
        """Raise `InvalidMessage` if the API key of the model's provider is not set; the error names the variable."""
        if why := missing_key(model, self._env):
            raise InvalidMessage(why, field="$.model")

    async def price(self, model: str, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the price of a model call in USD from LiteLLM's table of prices.

        Returns 0 if the table has no price for the model, or if the provider's API key is not set.
        """
        if missing_key(model, self._env):
            return 0.0
        litellm = await self._imported()

        async def priced() -> float:
            try:
                prices: tuple[float, float] = litellm.cost_per_token(
                    model=_qualified(model), prompt_tokens=prompt_tokens, completion_tokens=completion_tokens
                )
            except Exception as error:  # noqa: BLE001 - every exception of LiteLLM means that the price is unknown
                log.info("price of a model is unknown before the call", error=type(error).__name__)
                return 0.0
            return sum(prices)

        return await self._threads.run(priced)

    async def complete(self, request: dict[str, Any]) -> Completion:
        """Call a model once, without retries: the worker repeats failed calls, and each call is metered."""
        # A missing API key is reported before the call, because each provider answers with a different error.
        if why := missing_key(str(request["model"]), self._env):
            raise ModelKeyRefused(why)
        litellm = await self._imported()
        return await self._threads.run(lambda: self._call(litellm, str(request["model"]), request))

    async def _call(self, litellm: Any, model: str, request: dict[str, Any]) -> Completion:  # noqa: ANN401 - an untyped module
        passed = {name: value for name, value in request.items() if name in PASSED}
        try:
            answer: Any = await litellm.acompletion(
                model=_qualified(model), timeout=self._timeout_s, num_retries=0, drop_params=True, **passed
            )
        except Exception as error:  # noqa: BLE001 - LiteLLM raises many classes of errors, which `_fault` converts
            log.warning("model call failed", model=model, error=type(error).__name__)
            raise _fault(litellm, error, model) from None
        usage = answer.usage
        return Completion(
            answer.model_dump_json(exclude_none=False).encode(),
            int(usage.prompt_tokens or 0),
            int(usage.completion_tokens or 0),
            await asyncio.to_thread(_cost, litellm, _qualified(model), answer),
        )

    async def _imported(self) -> Any:  # noqa: ANN401 - an untyped module
        async with self._importing:
            if self._litellm is None:
                self._litellm = await self._threads.run(_import)
            return self._litellm


async def _import() -> Any:  # noqa: ANN401 - an untyped module
    # Without this variable LiteLLM downloads its table of prices when it is imported.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm: Any = await asyncio.to_thread(__import__, "litellm")
    litellm.telemetry = False
    litellm.suppress_debug_info = True
    return litellm


def _qualified(model: str) -> str:
    """Return the model's name with its provider as prefix, because LiteLLM would guess a missing provider."""
    return model if "/" in model else f"{provider_of(model)}/{model}"


def _cost(litellm: Any, model: str, answer: Any) -> float:  # noqa: ANN401 - an untyped module
    try:
        return float(litellm.completion_cost(completion_response=answer, model=model) or 0.0)
    except Exception as error:  # noqa: BLE001 - every exception of LiteLLM means that the price is unknown
        log.info("price of a model is unknown after the call", error=type(error).__name__)
        return 0.0


def _fault(litellm: Any, error: Exception, model: str) -> Fault:  # noqa: ANN401 - an untyped module
    if refusal := _refusal(litellm, error, model):
        return refusal
    text = _text(error)
    if isinstance(error, litellm.RateLimitError):
        return TooMany(text)
    if isinstance(error, litellm.Timeout):
        return TimedOut(text)
    if isinstance(error, litellm.ServiceUnavailableError | litellm.InternalServerError | litellm.APIConnectionError):
        return Unavailable(text)
    return ModelFailed(text)


def _refusal(litellm: Any, error: Exception, model: str) -> Fault | None:  # noqa: ANN401 - an untyped module
    """Return the fault for an error of LiteLLM if a retry of the call must fail too; None for other errors."""
    text, name = _text(error), model[:200]
    if isinstance(error, litellm.AuthenticationError | litellm.PermissionDeniedError):
        held = " or ".join(key_variables(model)) or "its provider's variable"
        return ModelKeyRefused(
            f"the provider of {name} refuses this deployment's key ({type(error).__name__}): "
            f"set the right key in {held} where the stack is started"
        )
    if _KEYLESS.search(text):
        return ModelKeyRefused(f"the provider of {name} finds no credentials in the stack's environment: {text[:500]}")
    if isinstance(error, litellm.NotFoundError) or _NO_PROVIDER in text:
        return ModelUnknown(f"no provider has the model {name}; write provider/model, such as openai/gpt-5-mini")
    if isinstance(error, litellm.BadRequestError | litellm.UnprocessableEntityError):
        return ModelRefused(text)
    return None


def _text(error: Exception) -> str:
    """Return a provider's error text without the traceback that LiteLLM adds to some errors.

    The traceback contains names of local files.
    """
    text = str(getattr(error, "message", "") or error).partition(_TRACEBACK)[0]
    return f"{type(error).__name__}: {text.rstrip()}"[:2000]

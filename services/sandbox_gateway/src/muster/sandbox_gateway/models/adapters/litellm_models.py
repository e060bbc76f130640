"""Calls hosted and configured models through LiteLLM.

For hosted models LiteLLM reads the API keys from the environment of this process. For the models of `models.toml` the
gateway passes the address and the key of the entry, so that LiteLLM reads neither from the environment. All code of
LiteLLM runs on `ModelThreads`, including its import and the look-up of prices, because much of this code blocks the
event loop that runs it.
"""

import asyncio
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import structlog

from muster.common.faults import Fault, InvalidMessage
from muster.common.model_entries import KINDS, LISTED, ModelEntry
from muster.common.model_keys import missing_key, provider_of
from muster.sandbox_gateway.models.adapters.configured_models import ConfiguredModels
from muster.sandbox_gateway.models.adapters.litellm_clients import NoRedirects
from muster.sandbox_gateway.models.adapters.litellm_errors import fault_of
from muster.sandbox_gateway.models.adapters.threads import ModelThreads
from muster.sandbox_gateway.models.domain.answers import Completion
from muster.sandbox_gateway.models.domain.provider_errors import ModelKeyRefused, ModelUnreadable
from muster.sandbox_gateway.models.domain.requests import PASSED

log = structlog.get_logger()

_SECRET_ENDINGS = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD", "_CREDENTIALS")
_SHORTEST_SECRET = 6
"""Characters. A shorter value may be a word of an error text, and is no key."""
_MOST_TOKENS = 1_000_000_000
"""The most tokens of one call that are counted."""
_NO_KEY = "none"
"""The key for a server that needs none. Without a key LiteLLM would send a key of the environment to the server."""


class LiteLLMModels:
    """The adapter for all models that LiteLLM can call."""

    def __init__(
        self,
        threads: ModelThreads,
        configured: ConfiguredModels,
        *,
        timeout_s: float,
        env: Mapping[str, str] = os.environ,
    ) -> None:
        self._threads, self._configured = threads, configured
        self._timeout_s, self._env = timeout_s, env
        self._importing = asyncio.Lock()
        self._clients = NoRedirects()
        self._litellm: Any = None

    def provider_of(self, model: str) -> str:
        """Return the name of the provider of a model, as LiteLLM spells this name."""
        entry = self._configured.get(model)
        return KINDS[entry.kind].provider if entry else provider_of(model)

    def check(self, model: str) -> None:
        """Raise `InvalidMessage` if the key of the model is missing; the error names the variable or the file."""
        if entry := self._configured.get(model):
            self._configured.key(entry)
        elif why := missing_key(model, self._env):
            raise InvalidMessage(why, field="$.model")

    async def prepare(self) -> None:
        """Import LiteLLM, which takes seconds, while the worker of the first task starts."""
        await self._imported()

    async def close(self) -> None:
        """Close the connections to the servers of configured models."""
        await self._threads.run(self._clients.close)

    async def price(self, model: str, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Return the price of a model call in USD from the model's entry or LiteLLM's table of prices.

        Returns None if neither has a price for the model, or if the provider's API key is not set.
        """
        entry = self._configured.get(model)
        if entry and (price := entry.price_usd(prompt_tokens, completion_tokens)) is not None:
            return price
        if entry and entry.kind not in LISTED:
            return None  # LiteLLM would ask a server, which need not be the server of the entry.
        if not entry and missing_key(model, self._env):
            return None
        litellm = await self._imported()

        async def priced() -> float | None:
            name = entry.litellm_name if entry else _qualified(model)
            return _table_price(litellm, name, prompt_tokens, completion_tokens)

        return await self._threads.run(priced)

    async def complete(self, request: dict[str, Any]) -> Completion:
        """Call a model once, without retries: the worker repeats failed calls, and each call is metered."""
        model = str(request["model"])
        entry = self._configured.get(model)
        # A missing API key is reported before the call, because each provider answers with a different error.
        if entry:
            try:
                target = {"model": entry.litellm_name, "api_base": entry.address}
                target["api_key"] = self._configured.key(entry) or _NO_KEY
            except InvalidMessage as why:
                raise ModelKeyRefused(str(why)) from None
        elif why := missing_key(model, self._env):
            raise ModelKeyRefused(why)
        else:
            target = {"model": _qualified(model)}
        litellm = await self._imported()
        passed = {name: value for name, value in request.items() if name in PASSED} | target
        return await self._threads.run(lambda: self._call(litellm, model, entry, passed))

    async def _call(
        self,
        litellm: Any,  # noqa: ANN401 - an untyped module
        model: str,
        entry: ModelEntry | None,
        request: dict[str, Any],
    ) -> Completion:
        if entry:
            request |= {"client": self._clients.get(entry, request), **_ollama(litellm, entry)}
        try:
            answer: Any = await litellm.acompletion(timeout=self._timeout_s, num_retries=0, drop_params=True, **request)
            return await asyncio.to_thread(_completion, litellm, entry, request["model"], answer)
        except Fault:
            raise
        except Exception as error:  # noqa: BLE001 - LiteLLM raises many classes of errors, which `fault_of` converts
            raise fault_of(litellm, error, model, entry, secrets=self._secrets(entry)) from None

    def _secrets(self, entry: ModelEntry | None) -> list[str]:
        """Return the keys that a provider may repeat in its error, and that the error must not show."""
        found = [value for name, value in self._env.items() if name.endswith(_SECRET_ENDINGS)]
        if entry:
            with suppress(InvalidMessage):
                found.append(self._configured.key(entry))
        return [value for value in found if len(value) >= _SHORTEST_SECRET]

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


def _ollama(litellm: Any, entry: ModelEntry) -> dict[str, Any]:  # noqa: ANN401 - an untyped module
    """Prepare a call of Ollama, and return its additional parameter: the size of the context window.

    Without an entry in LiteLLM's table of prices, LiteLLM asks the Ollama of this machine for the model, with the key
    of the environment, also if the model is at another address.
    """
    if entry.kind != "ollama":
        return {}
    known = {"litellm_provider": "ollama_chat", "mode": "chat", "input_cost_per_token": 0, "output_cost_per_token": 0}
    litellm.model_cost.setdefault(entry.litellm_name, known)
    return {"num_ctx": entry.context_tokens} if entry.context_tokens else {}


def _qualified(model: str) -> str:
    """Return the model's name with its provider as prefix, because LiteLLM would guess a missing provider."""
    return model if "/" in model else f"{provider_of(model)}/{model}"


def _completion(litellm: Any, entry: ModelEntry | None, name: str, answer: Any) -> Completion:  # noqa: ANN401 - untyped
    if not getattr(answer, "choices", None):
        raise ModelUnreadable("the provider's answer contains no choices")
    usage, choice = answer.usage, answer.choices[0]
    prompt, spoken = _counted(usage.prompt_tokens), _counted(usage.completion_tokens)
    cost = entry.price_usd(prompt, spoken) if entry else None
    listed = entry is None or entry.kind in LISTED
    return Completion(
        answer.model_dump_json(exclude_none=False).encode(),
        prompt,
        spoken,
        _cost(litellm, name, answer) if cost is None and listed else cost,
        str(choice.finish_reason or "stop"),
        empty=not (choice.message.content or "").strip() and not choice.message.tool_calls,
    )


def _counted(tokens: int | None) -> int:
    """Return the number of tokens that a server reports, within the bounds that records can hold."""
    return min(max(int(tokens or 0), 0), _MOST_TOKENS)


def _cost(litellm: Any, model: str, answer: Any) -> float | None:  # noqa: ANN401 - an untyped module
    try:
        cost = float(litellm.completion_cost(completion_response=answer, model=model))
    except Exception as error:  # noqa: BLE001 - every exception of LiteLLM means that the price is unknown
        log.info("price of a model is unknown after the call", error=type(error).__name__)
        return None
    return cost if 0 <= cost < math.inf else None


def _table_price(litellm: Any, model: str, prompt_tokens: int, completion_tokens: int) -> float | None:  # noqa: ANN401 - untyped
    try:
        prices: tuple[float, float] = litellm.cost_per_token(
            model=model, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens
        )
    except Exception as error:  # noqa: BLE001 - every exception of LiteLLM means that the price is unknown
        log.info("price of a model is unknown before the call", error=type(error).__name__)
        return None
    return sum(prices)

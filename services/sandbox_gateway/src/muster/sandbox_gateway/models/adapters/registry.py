"""The protocol of an adapter that calls models, and the table that chooses the adapter by the model's name."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from muster.common.contracts.model_calls import ModelSettings
from muster.common.faults import Fault, InvalidMessage
from muster.common.model_entries import LISTED, ModelEntry
from muster.sandbox_gateway.models.domain.answers import Completion
from muster.sandbox_gateway.models.domain.model_names import ModelNames

_MOST_WANTED = 100


class ModelProvider(Protocol):
    """An adapter that calls the models of one or several providers."""

    def check(self, model: str) -> None:
        """Raise `InvalidMessage` if this gateway certainly cannot call the model. Sends no request to a provider."""
        ...

    async def prepare(self) -> None:
        """Load what a call needs and what takes long to load. May be called repeatedly. Raises only `Fault`s."""
        ...

    async def complete(self, request: dict[str, Any]) -> Completion:
        """Call the model with a request in OpenAI's format, and return its answer. Raises only `Fault`s."""
        ...

    def provider_of(self, model: str) -> str:
        """Return the name of a model's provider, which is stored in the record of each metered call."""
        ...

    async def price(self, model: str, prompt_tokens: int, completion_tokens: int) -> float | None:
        """Return the price of a model call in USD; None if no price is known. Raises only `Fault`s."""
        ...


class ModelProviders:
    """Chooses the adapter for a model by the provider in its name, after checking that the name is allowed."""

    def __init__(
        self,
        by_provider: Mapping[str, ModelProvider],
        otherwise: ModelProvider,
        names: ModelNames,
        configured: Callable[[str], ModelEntry | None] = lambda _: None,
    ) -> None:
        self._by_provider, self._otherwise, self._names = by_provider, otherwise, names
        self._configured = configured
        self._wanted: asyncio.Queue[str] = asyncio.Queue(_MOST_WANTED)

    def settings(self, model: str) -> ModelSettings:
        """Return the settings of a model for its worker. Only a configured model has settings."""
        entry = self._configured(model)
        return entry.settings if entry else ModelSettings(known_as=model)

    def check(self, model: str) -> None:
        """Raise `InvalidMessage` for a model that is not allowed, or that the gateway certainly cannot call."""
        try:
            provider = self.adapter_of(model)
        except Fault as refusal:
            raise InvalidMessage(str(refusal), field=refusal.field) from None
        provider.check(model)

    def check_price(self, model: str) -> None:
        """Raise `InvalidMessage` for a configured model without prices, because its costs could not be limited."""
        entry = self._configured(model)
        if entry and entry.price_usd(0, 0) is None and entry.kind not in LISTED:
            raise InvalidMessage(
                f"the costs of the model {model} cannot be limited, because its price is unknown: add the prices to "
                "its entry (`muster model add … --input-price USD --output-price USD`), or leave max_cost_usd out",
                field="$.max_cost_usd",
            )

    def prepare_soon(self, model: str) -> None:
        """Let `run` load the code that calls a model, so that it is ready when the worker makes its first call."""
        with suppress(asyncio.QueueFull):
            self._wanted.put_nowait(model)

    async def run(self) -> None:
        """Load the code for the models of `prepare_soon`, until cancelled. A failure is shown by the call itself."""
        while True:
            model = await self._wanted.get()
            with suppress(Fault):
                await self.adapter_of(model).prepare()

    def check_name(self, model: str) -> None:
        """Raise `InvalidMessage` if the name of a model is not allowed.

        A name without a provider is accepted, because a task whose agent calls no model may contain such a name.
        """
        try:
            if "/" in model:
                self._names.provider(model)
            else:
                self._names.check_shape(model)
        except Fault as refusal:
            raise InvalidMessage(str(refusal), field=refusal.field) from None

    def adapter_of(self, model: str) -> ModelProvider:
        """Return the adapter that calls a model. Raises `ModelRefused` or `ModelUnknown` if the name is not allowed."""
        return self._by_provider.get(self._names.provider(model), self._otherwise)

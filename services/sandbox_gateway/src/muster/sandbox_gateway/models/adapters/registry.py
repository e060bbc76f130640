"""The protocol of a model provider, and the table that chooses one by the provider in a model's name."""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from muster.common.faults import Fault, InvalidMessage
from muster.sandbox_gateway.models.domain.names import ModelNames


class Completion(msgspec.Struct, frozen=True):
    """A model's answer in OpenAI's JSON shape, the tokens that it used, and its price in USD."""

    body: bytes
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float


class ModelProvider(Protocol):
    """An adapter that answers model calls."""

    def check(self, model: str) -> None:
        """Raise `InvalidMessage` if this model certainly cannot be called here. Makes no request to decide that."""
        ...

    async def complete(self, request: dict[str, Any]) -> Completion:
        """Answer a request in OpenAI's shape. Raises only `Fault`s."""
        ...

    def provider_of(self, model: str) -> str:
        """Return the name of the provider that the meter records for a model."""
        ...

    async def price(self, model: str, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the price of a call in USD; 0 if no price is known. Raises only `Fault`s."""
        ...


class ModelProviders:
    """Chooses the adapter for a model by the provider in its name, after checking that the name is allowed."""

    def __init__(self, by_provider: Mapping[str, ModelProvider], otherwise: ModelProvider, names: ModelNames) -> None:
        self._by_provider, self._otherwise, self._names = by_provider, otherwise, names

    def check(self, model: str) -> None:
        """Raise `InvalidMessage` for a model that is not allowed or cannot be called (see `ModelProvider.check`)."""
        try:
            provider = self.adapter_of(model)
        except Fault as refusal:
            raise InvalidMessage(str(refusal), field=refusal.field) from None
        provider.check(model)

    def check_name(self, model: str) -> None:
        """Raise `InvalidMessage` for a name that is not allowed.

        Accepts a bare word without a provider too: a sandbox of a package that calls no model has one.
        """
        try:
            if "/" in model:
                self._names.provider(model)
            else:
                self._names.check_shape(model)
        except Fault as refusal:
            raise InvalidMessage(str(refusal), field=refusal.field) from None

    def adapter_of(self, model: str) -> ModelProvider:
        """Return the adapter of a model. Raises `ModelRefused` or `ModelUnknown` for a name that is not allowed."""
        return self._by_provider.get(self._names.provider(model), self._otherwise)

"""The protocol of an adapter that calls models, and the table that chooses the adapter by the model's name."""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from muster.common.faults import Fault, InvalidMessage
from muster.sandbox_gateway.models.domain.model_names import ModelNames


class Completion(msgspec.Struct, frozen=True):
    """A model's answer in OpenAI's JSON format, the numbers of tokens that the call used, and its price in USD."""

    body: bytes
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float


class ModelProvider(Protocol):
    """An adapter that calls the models of one or several providers."""

    def check(self, model: str) -> None:
        """Raise `InvalidMessage` if this gateway certainly cannot call the model. Sends no request to a provider."""
        ...

    async def complete(self, request: dict[str, Any]) -> Completion:
        """Call the model with a request in OpenAI's format, and return its answer. Raises only `Fault`s."""
        ...

    def provider_of(self, model: str) -> str:
        """Return the name of a model's provider, which is stored in the record of each metered call."""
        ...

    async def price(self, model: str, prompt_tokens: int, completion_tokens: int) -> float:
        """Return the price of a model call in USD; 0 if no price is known. Raises only `Fault`s."""
        ...


class ModelProviders:
    """Chooses the adapter for a model by the provider in its name, after checking that the name is allowed."""

    def __init__(self, by_provider: Mapping[str, ModelProvider], otherwise: ModelProvider, names: ModelNames) -> None:
        self._by_provider, self._otherwise, self._names = by_provider, otherwise, names

    def check(self, model: str) -> None:
        """Raise `InvalidMessage` for a model that is not allowed, or that the gateway certainly cannot call."""
        try:
            provider = self.adapter_of(model)
        except Fault as refusal:
            raise InvalidMessage(str(refusal), field=refusal.field) from None
        provider.check(model)

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

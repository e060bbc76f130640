"""Models behind one small protocol, and the one table that chooses by the provider in a model's name."""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from muster.common.faults import Fault, InvalidMessage
from muster.sandbox_gateway.models.domain.names import ModelNames


class Completion(msgspec.Struct, frozen=True):
    """An answer in OpenAI's shape, as bytes, and what it cost."""

    body: bytes
    prompt_tokens: int
    completion_tokens: int
    cost_usd: float


class ModelProvider(Protocol):
    """One source of models."""

    def check(self, model: str) -> None:
        """Raise `InvalidMessage` if it is known, without asking anybody, that this model cannot be called here."""
        ...

    async def complete(self, request: dict[str, Any]) -> Completion:
        """Answer a request in OpenAI's shape. Raises `Fault`s only."""
        ...

    def provider_of(self, model: str) -> str:
        """The name that the meter records for a model."""
        ...

    async def price(self, model: str, prompt_tokens: int, completion_tokens: int) -> float:
        """What so many tokens cost in USD; 0 where no price is known. Raises `Fault`s only."""
        ...


class ModelProviders:
    """The table. A name is looked at before any provider sees it."""

    def __init__(self, by_provider: Mapping[str, ModelProvider], otherwise: ModelProvider, names: ModelNames) -> None:
        self._by_provider, self._otherwise, self._names = by_provider, otherwise, names

    def check(self, model: str) -> None:
        """Raise `InvalidMessage` for a model that may not be called, or that cannot be (see `ModelProvider.check`)."""
        try:
            provider = self.behind(model)
        except Fault as refusal:
            raise InvalidMessage(str(refusal), field=refusal.field) from None
        provider.check(model)

    def check_name(self, model: str) -> None:
        """As `check`, but take a bare word too: packages that call no model are created with one."""
        try:
            if "/" in model:
                self._names.provider(model)
            else:
                self._names.check_shape(model)
        except Fault as refusal:
            raise InvalidMessage(str(refusal), field=refusal.field) from None

    def behind(self, model: str) -> ModelProvider:
        """Who answers for `model`. Raises `ModelRefused` or `ModelUnknown` for a name that may not be called."""
        return self._by_provider.get(self._names.provider(model), self._otherwise)

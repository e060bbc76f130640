"""Models behind one small protocol, and the one table that chooses by the first part of a model's name."""

from collections.abc import Mapping
from typing import Any, Protocol

import msgspec

from muster.common.faults import Fault


class ModelRefused(Fault):
    """The model's provider says that this request can never work."""

    status, code = 400, "model_refused"


class ModelKeyRefused(Fault):
    """The provider refuses this deployment's key, or there is none: trying again changes nothing."""

    status, code = 403, "model_key_refused"


class ModelUnknown(Fault):
    """Nobody has a model of that name: trying again changes nothing."""

    status, code = 404, "model_unknown"


class ModelFailed(Fault):
    """The model's provider failed; a person may have to look."""

    status, code = 502, "model_failed"


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


class Models:
    """The table."""

    def __init__(self, by_prefix: Mapping[str, ModelProvider], otherwise: ModelProvider) -> None:
        self._by_prefix, self._otherwise = by_prefix, otherwise

    def check(self, model: str) -> None:
        """See `ModelProvider.check`."""
        self.behind(model).check(model)

    def behind(self, model: str) -> ModelProvider:
        """Who answers for `model`."""
        return self._by_prefix.get(model.partition("/")[0], self._otherwise)

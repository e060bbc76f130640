"""Which model names may be called: `provider/model` of an allowed provider, and nothing that reads as an address.

LiteLLM takes a server's address from some names (`oobabooga/http://host`), starts a login for others
(`github_copilot/x`) and puts the rest into URLs. A name comes from the person who submits a task, so it is checked
before LiteLLM sees it.
"""

import re
from collections.abc import Collection

from muster.common.model_keys import allowed_providers, provider_of
from muster.sandbox_gateway.models.domain.faults import ModelRefused, ModelUnknown

LONGEST_NAME = 255
_SEGMENT = r"(?!\.+(?:/|\Z))[A-Za-z0-9._:@+-]+"
_NAME = re.compile(rf"(?![.:@+-]){_SEGMENT}(?:/{_SEGMENT})*\Z")
"""Segments are never empty or dots only: `://` and `/../` cannot be written."""
_LOG_IN = frozenset({"chatgpt", "github_copilot"})
"""LiteLLM starts an interactive login wherever it looks up one of these, also inside a name."""
_WRITE = "write provider/model, such as openai/gpt-5-mini"


class ModelNames:
    """The names that this deployment's gateway may pass on."""

    def __init__(self, added: Collection[str] = ()) -> None:
        self._allowed = allowed_providers(added)

    def provider(self, model: str) -> str:
        """The allowed provider of a model. Raises `ModelRefused` or `ModelUnknown`, both naming `$.model`."""
        self.check_shape(model)
        provider = provider_of(model)
        if not provider:
            raise ModelUnknown(f"the model {model!r} names no provider: {_WRITE}", field="$.model")
        unwanted = {provider} - self._allowed or _LOG_IN.intersection(model.split("/")) - self._allowed
        if unwanted:
            text = (
                f"the provider {min(unwanted)} of the model {model!r} may not be called: {_WRITE}, with one of "
                f"{', '.join(sorted(self._allowed))}; or add it to MUSTER_MODEL_PROVIDERS where the stack is started"
            )
            raise ModelUnknown(text, field="$.model")
        return provider

    def check_shape(self, model: str) -> None:
        """Raise `ModelRefused` for what can be no model's name."""
        if len(model) > LONGEST_NAME or not _NAME.match(model):
            text = f"{model[:LONGEST_NAME]!r} is no model's name: {_WRITE}, without an address, spaces or empty parts"
            raise ModelRefused(text, field="$.model")

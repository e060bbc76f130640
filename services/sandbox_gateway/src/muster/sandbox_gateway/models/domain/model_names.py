"""Checks the names of models: `provider/model` with an allowed provider, and without a text that LiteLLM uses as a URL.

LiteLLM reads a server's address from some names (`oobabooga/http://host`), starts a login for others
(`github_copilot/x`) and builds URLs with the other names. The client that submits a task chooses the name, so the
gateway checks the name before LiteLLM gets it.
"""

import re
from collections.abc import Callable, Collection

from muster.common.model_entries import KINDS, ModelEntry
from muster.common.model_keys import allowed_providers, provider_of
from muster.sandbox_gateway.models.domain.provider_errors import ModelRefused, ModelUnknown

LONGEST_NAME = 255
_SEGMENT = r"(?!\.+(?:/|\Z))[A-Za-z0-9._:@+-]+"
_NAME = re.compile(rf"(?![.:@+-]){_SEGMENT}(?:/{_SEGMENT})*\Z")
"""No segment of a name is empty or consists of dots only, which excludes `://` and `/../`."""
_LOG_IN = frozenset({"chatgpt", "github_copilot"})
"""Providers for which LiteLLM starts an interactive login, also if they are a later segment of a model's name."""
_WRITE = "write provider/model, such as openai/gpt-5-mini, or the name of a model that `muster model add` has stored"


class ModelNames:
    """Checks model names by the rule of this deployment: only built-in providers and those in `added` are allowed.

    `configured` returns the entry of `models.toml` with this name. A configured model is always allowed.
    """

    def __init__(
        self, added: Collection[str] = (), configured: Callable[[str], ModelEntry | None] = lambda _: None
    ) -> None:
        self._allowed, self._configured = allowed_providers(added), configured

    def provider(self, model: str) -> str:
        """Return the provider of a model. Raises `ModelRefused` or `ModelUnknown` if the name is not allowed."""
        self.check_shape(model)
        if entry := self._configured(model):
            return KINDS[entry.kind].provider
        provider = provider_of(model)
        if not provider:
            raise ModelUnknown(f"the model's name {model!r} has no provider: {_WRITE}", field="$.model")
        unwanted = {provider} - self._allowed or _LOG_IN.intersection(model.split("/")) - self._allowed
        if unwanted:
            text = (
                f"the provider {min(unwanted)} of the model {model!r} may not be called: {_WRITE}, with one of "
                f"{', '.join(sorted(self._allowed))}; or add it to MUSTER_MODEL_PROVIDERS where the stack is started"
            )
            raise ModelUnknown(text, field="$.model")
        return provider

    def check_shape(self, model: str) -> None:
        """Raise `ModelRefused` for a text that cannot be the name of a model."""
        if len(model) > LONGEST_NAME or not _NAME.match(model):
            text = (
                f"{model[:LONGEST_NAME]!r} is not a model's name: {_WRITE}, without an address, spaces or empty parts"
            )
            raise ModelRefused(text, field="$.model")

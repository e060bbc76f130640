"""The model that a user's variables for OpenHands describe: `LLM_MODEL`, `LLM_BASE_URL` and `LLM_API_KEY`.

A user of OpenHands has these variables already. They describe one configured model, which tasks name `llm`, as if
`muster model add llm` had stored it. An entry `llm` in `models.toml` has precedence.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from muster.common.faults import InvalidMessage
from muster.common.model_entries import Kind, ModelEntry, check_entry
from muster.common.model_keys import provider_of

LLM: Final = "llm"
"""The name of the described model."""
MODEL_VARIABLES: Final = ("OPENHANDS_MODEL", "LLM_MODEL")
"""Variables with the model's name. The first one that is set counts."""
ADDRESS_VARIABLES: Final = ("OPENHANDS_BASE_URL", "LLM_BASE_URL")
KEY_VARIABLE: Final = "LLM_API_KEY"
_KINDS: Final[Mapping[str, Kind]] = {
    "openai": "openai",
    "lm_studio": "openai",
    "anthropic": "anthropic",
    "ollama": "ollama",
    "ollama_chat": "ollama",
    "hosted_vllm": "vllm",
    "vllm": "vllm",
    "litellm_proxy": "litellm",
    "openrouter": "openrouter",
}
"""The kinds of servers by the provider in a model's name, as LiteLLM spells the provider."""
_LOCAL: Final = frozenset({"ollama", "vllm", "litellm"})
"""Kinds of servers that are usually on this machine and need no key."""


class DescribedModel(NamedTuple):
    """The entry of the described model, and the variables that describe it."""

    entry: ModelEntry
    variables: tuple[str, ...]


def described_model(env: Mapping[str, str]) -> DescribedModel | None:
    """Return the model that the variables describe, or None if they describe none.

    A model's name alone, with neither an address nor a key, names a hosted model and describes none. Raises
    `InvalidMessage` with the name of the variable that has a wrong value.
    """
    name_variable, name = first_set(MODEL_VARIABLES, env)
    address_variable, address = first_set(ADDRESS_VARIABLES, env)
    has_key = bool(env.get(KEY_VARIABLE, "").strip())
    kind = _KINDS.get(provider_of(name))
    if not name or not (address or (has_key and kind) or kind in _LOCAL):
        return None
    entry = ModelEntry(
        kind=kind or "openai",
        model=name.partition("/")[2] if kind and "/" in name else name,
        base_url=address or None,
        key_env=KEY_VARIABLE if has_key or kind in ("anthropic", "openrouter") else None,
    )
    try:
        # A constructed struct is not validated, but a decoded one is.
        entry = msgspec.convert(msgspec.to_builtins(entry), ModelEntry)
        check_entry(LLM, entry)
    except (msgspec.ValidationError, InvalidMessage) as error:
        fault = error if isinstance(error, InvalidMessage) else InvalidMessage.at(error, ModelEntry)
        variable = address_variable if fault.field == "$.base_url" else name_variable
        raise InvalidMessage(f"{variable}: {fault}", field=fault.field) from None
    used = (name_variable, address_variable, KEY_VARIABLE if entry.key_env else "")
    return DescribedModel(entry, tuple(filter(None, used)))


def described_entries(env: Mapping[str, str]) -> dict[str, ModelEntry]:
    """Return the described model by its name; an empty dict if the variables describe none."""
    found = described_model(env)
    return {LLM: found.entry} if found else {}


def first_set(variables: tuple[str, ...], env: Mapping[str, str]) -> tuple[str, str]:
    """Return the first variable that has a value, and the value without spaces around it; two empty texts if none."""
    return next(((name, value) for name in variables if (value := env.get(name, "").strip())), ("", ""))

"""Which variable holds the key of which model provider. LiteLLM reads them; only the gateway's environment has them."""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "anthropic": ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
    "cerebras": ("CEREBRAS_API_KEY",),
    "cohere": ("COHERE_API_KEY",),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "fireworks_ai": ("FIREWORKS_AI_API_KEY", "FIREWORKS_API_KEY"),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "groq": ("GROQ_API_KEY",),
    "mistral": ("MISTRAL_API_KEY",),
    "moonshot": ("MOONSHOT_API_KEY",),
    "nvidia_nim": ("NVIDIA_NIM_API_KEY",),
    "openai": ("OPENAI_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY",),
    "perplexity": ("PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY"),
    "together_ai": ("TOGETHERAI_API_KEY", "TOGETHER_API_KEY"),
    "xai": ("XAI_API_KEY",),
}
"""Providers that answer nobody without a key, and the variables one of which must hold it. Whoever is not here may
need none (a server of one's own) or finds it elsewhere (a cloud's roles): that shows when the model is called."""
_BY_BARE_NAME: Final = (("claude", "anthropic"), ("gpt-", "openai"), ("chatgpt-", "openai"), ("o3", "openai"))


class ProviderKey(NamedTuple):
    """A provider, and which of its variables is set, if one is. Never the key."""

    provider: str
    variables: tuple[str, ...]
    found: str | None


def missing_key(model: str, env: Mapping[str, str]) -> str | None:
    """What to do before this model can be called with this environment; None if nothing is known against it."""
    names = key_variables(model)
    if not names or _found(names, env):
        return None
    return f"set {names[0]} where the stack is started: the model {model[:200]} cannot be called without a key"


def key_variables(model: str) -> tuple[str, ...]:
    """The variables one of which must hold this model's key; none where it is not known to need one."""
    provider, slash, _ = model.partition("/")
    if not slash:
        provider = next((whose for begins, whose in _BY_BARE_NAME if model.startswith(begins)), "")
    return KEYS.get(provider, ())


def provider_keys(env: Mapping[str, str]) -> Iterator[ProviderKey]:
    """Every provider that needs a key, by name."""
    for provider, names in KEYS.items():
        yield ProviderKey(provider, names, _found(names, env))


def _found(names: tuple[str, ...], env: Mapping[str, str]) -> str | None:
    return next((name for name in names if env.get(name, "").strip()), None)

"""Declares the model providers that a stack may call, and the environment variables that contain their keys.

The gateway calls no other provider (`allowed_providers`), and a stack passes no other keys to the gateway
(`variable_prefixes`). `MUSTER_MODEL_PROVIDERS` adds providers to both. LiteLLM reads the keys. Only the environment of
the gateway contains them.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "anthropic": ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"),
    "cerebras": ("CEREBRAS_API_KEY",),
    "cohere": ("COHERE_API_KEY",),
    "dashscope": ("DASHSCOPE_API_KEY",),
    "deepinfra": ("DEEPINFRA_API_KEY",),
    "deepseek": ("DEEPSEEK_API_KEY",),
    "fireworks_ai": ("FIREWORKS_AI_API_KEY", "FIREWORKS_API_KEY"),
    "gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "groq": ("GROQ_API_KEY",),
    "minimax": ("MINIMAX_API_KEY",),
    "mistral": ("MISTRAL_API_KEY",),
    "moonshot": ("MOONSHOT_API_KEY",),
    "nvidia_nim": ("NVIDIA_NIM_API_KEY",),
    "openai": ("OPENAI_API_KEY",),
    "openrouter": ("OPENROUTER_API_KEY",),
    "perplexity": ("PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY"),
    "sambanova": ("SAMBANOVA_API_KEY",),
    "together_ai": ("TOGETHERAI_API_KEY", "TOGETHER_API_KEY"),
    "xai": ("XAI_API_KEY",),
    "zai": ("ZAI_API_KEY",),
}
"""Hosted providers that a stack may call by default, and the variables of which one must contain the key.

Each has fixed addresses on the internet. Providers with a configured address (a private server) or with other
credentials (a cloud's roles, a login) are called only if `MUSTER_MODEL_PROVIDERS` names them.
"""
SCRIPTED: Final = "scripted"
"""The project's own provider, which calls no server."""
_BY_BARE_NAME: Final = (("claude", "anthropic"), ("gpt-", "openai"), ("chatgpt-", "openai"), ("o3", "openai"))
_KEY_ENDINGS: Final = ("API_KEY", "AUTH_TOKEN")
_ADDED_PREFIXES: Final[Mapping[str, tuple[str, ...]]] = {
    "bedrock": ("AWS_",),
    "sagemaker": ("AWS_",),
    "vertex_ai": ("VERTEXAI_", "VERTEX_", "GOOGLE_"),
    "ollama_chat": ("OLLAMA_",),
    "huggingface": ("HUGGINGFACE_", "HF_"),
}
"""Variable prefixes of providers that may be added, if the prefix is not the provider's name."""


class ProviderKey(NamedTuple):
    """A provider, the variables that may contain its key, and the variable that is set. Never contains the key."""

    provider: str
    variables: tuple[str, ...]
    found: str | None


def added_providers(setting: str) -> tuple[str, ...]:
    """Return the providers in `MUSTER_MODEL_PROVIDERS`: LiteLLM's names, separated by commas."""
    return tuple(filter(None, (name.strip() for name in setting.split(","))))


def allowed_providers(added: Iterable[str] = ()) -> frozenset[str]:
    """Return all providers that a stack may call."""
    return frozenset({*KEYS, SCRIPTED, *added})


def provider_of(model: str) -> str:
    """Return the provider of a model: the part of the model's name before `/`.

    The providers of some names without `/` are known. For other names, the result is "".
    """
    provider, slash, _ = model.partition("/")
    if slash:
        return provider
    return next((whose for begins, whose in _BY_BARE_NAME if model.startswith(begins)), "")


def variable_prefixes(added: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the prefixes of variables that configure the allowed providers: keys, addresses, organizations."""
    return tuple(sorted({prefix for provider in (*KEYS, *added) for prefix in prefixes_of(provider)}))


def prefixes_of(provider: str) -> tuple[str, ...]:
    """Return the prefixes of variables that configure one provider."""
    if names := KEYS.get(provider):
        prefixes = {name.removesuffix(ending) for name in names for ending in _KEY_ENDINGS if name.endswith(ending)}
        return tuple(sorted(prefixes))
    return _ADDED_PREFIXES.get(provider, (f"{provider.upper().replace('-', '_')}_",))


def missing_key(model: str, env: Mapping[str, str]) -> str | None:
    """Return a sentence that says which key to set before the model can be called, or None if no key is missing."""
    names = key_variables(model)
    if not names or _found(names, env):
        return None
    return f"set {names[0]} where the stack is started: the model {model[:200]} cannot be called without a key"


def key_variables(model: str) -> tuple[str, ...]:
    """Return the variables that may contain this model's key. Empty if the model is not known to need a key."""
    return KEYS.get(provider_of(model), ())


def provider_keys(env: Mapping[str, str]) -> Iterator[ProviderKey]:
    """Yield every provider that needs a key, sorted by name."""
    for provider, names in KEYS.items():
        yield ProviderKey(provider, names, _found(names, env))


def _found(names: tuple[str, ...], env: Mapping[str, str]) -> str | None:
    return next((name for name in names if env.get(name, "").strip()), None)

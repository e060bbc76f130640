"""The model providers that a stack may call, and the variables that hold their keys: the one declaration of both.

The gateway calls no other provider (`allowed_providers`), and a stack hands it no other keys (`variable_prefixes`).
`MUSTER_MODEL_PROVIDERS` adds providers to both. LiteLLM reads the keys; only the gateway's environment has them.
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
"""Hosted providers that a stack calls without being told to, and the variables one of which must hold their key.

Each has fixed addresses on the internet. Providers whose address is configured (a server of one's own), and those that
take credentials from elsewhere (a cloud's roles, a login), are called only if `MUSTER_MODEL_PROVIDERS` names them.
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
"""Variables of providers that may be added and whose name does not begin with the provider's."""


class ProviderKey(NamedTuple):
    """A provider, and the name of its variable that is set, if one is; never the key."""

    provider: str
    variables: tuple[str, ...]
    found: str | None


def added_providers(setting: str) -> tuple[str, ...]:
    """Return the providers that `MUSTER_MODEL_PROVIDERS` adds: names as LiteLLM writes them, separated by commas."""
    return tuple(filter(None, (name.strip() for name in setting.split(","))))


def allowed_providers(added: Iterable[str] = ()) -> frozenset[str]:
    """Return all providers that a stack may call."""
    return frozenset({*KEYS, SCRIPTED, *added})


def provider_of(model: str) -> str:
    """Return the provider at the beginning of a model's name, or of a few bare names; empty if there is none."""
    provider, slash, _ = model.partition("/")
    if slash:
        return provider
    return next((whose for begins, whose in _BY_BARE_NAME if model.startswith(begins)), "")


def variable_prefixes(added: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the prefixes of variables that configure the allowed providers: keys, addresses, organizations."""
    prefixes = {
        variable.removesuffix(ending)
        for names in KEYS.values()
        for variable in names
        for ending in _KEY_ENDINGS
        if variable.endswith(ending)
    }
    for provider in added:
        prefixes.update(_ADDED_PREFIXES.get(provider, (f"{provider.upper().replace('-', '_')}_",)))
    return tuple(sorted(prefixes))


def missing_key(model: str, env: Mapping[str, str]) -> str | None:
    """Return what to do before this model can be called with this environment; None if nothing is missing."""
    names = key_variables(model)
    if not names or _found(names, env):
        return None
    return f"set {names[0]} where the stack is started: the model {model[:200]} cannot be called without a key"


def key_variables(model: str) -> tuple[str, ...]:
    """Return the variables one of which must hold this model's key; none if it is not known to need one."""
    return KEYS.get(provider_of(model), ())


def provider_keys(env: Mapping[str, str]) -> Iterator[ProviderKey]:
    """Return every provider that needs a key, by name."""
    for provider, names in KEYS.items():
        yield ProviderKey(provider, names, _found(names, env))


def _found(names: tuple[str, ...], env: Mapping[str, str]) -> str | None:
    return next((name for name in names if env.get(name, "").strip()), None)

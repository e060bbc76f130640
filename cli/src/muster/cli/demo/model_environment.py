"""Finds the environment variables that a model needs, and selects the variables that the demo's stack receives.

The stack must not depend on the user's configuration or see unrelated secrets, so most variables are omitted.
"""

from collections.abc import Mapping, Sequence

from muster.common.model_keys import KEYS

_MUSTER_PREFIXES = ("MUSTER_", "COVERAGE")
_SERVER_PREFIXES = ("MUSTER_CONFIG", "MUSTER_NATS_TLS_", "MUSTER_DATABASE_TLS_")
"""Variables that the stack does not receive, because they configure external servers; the demo starts its servers."""
_BASIC_NAMES = frozenset({"PATH", "HOME", "LANG", "TMPDIR"})
_NETWORK_NAMES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"})
"""Variables that a connection to a model provider may need."""
_OTHER_PROVIDERS: Mapping[str, Sequence[str]] = {
    "bedrock": ("AWS_ACCESS_KEY_ID",),
    "ollama": ("OLLAMA_API_BASE",),
    "vertex_ai": ("GOOGLE_APPLICATION_CREDENTIALS", "VERTEXAI_PROJECT"),
}
"""Variables of providers that are not in `KEYS`."""
_PROVIDER_BY_PREFIX = (("claude", "anthropic"), ("gemini", "gemini"))


def model_provider(model: str) -> str:
    """Return a model's provider: the part before the slash, else a guess from the name's beginning, else `openai`."""
    name, slash, _ = model.partition("/")
    if slash:
        return name
    return next((provider for prefix, provider in _PROVIDER_BY_PREFIX if name.startswith(prefix)), "openai")


def key_names(model: str) -> Sequence[str]:
    """Return the names of the model's key variables; at least one of these variables must be set."""
    name = model_provider(model)
    return KEYS.get(name) or _OTHER_PROVIDERS.get(name, (f"{name.upper().replace('-', '_')}_API_KEY",))


def missing_key(model: str, env: Mapping[str, str]) -> str | None:
    """Return an error message if `env` contains no key for the model, otherwise None."""
    names = key_names(model)
    if any(env.get(name) for name in names):
        return None
    return f"--model {model} needs a key: set {' or '.join(names)}. Only the gateway receives the key."


def demo_environment(env: Mapping[str, str], model: str | None) -> dict[str, str]:
    """Return the environment of the demo's stack: basic variables such as PATH, and the variables `MUSTER_*`.

    With a real model, the stack also receives the variables of the model's provider, of proxies and of certificates.
    """
    prefixes: tuple[str, ...] = _MUSTER_PREFIXES
    names = _BASIC_NAMES
    if model:
        prefixes += tuple(f"{name.partition('_')[0]}_" for name in key_names(model))
        names |= _NETWORK_NAMES
    return {
        name: value
        for name, value in env.items()
        if name.upper() in names or (name.startswith(prefixes) and not name.startswith(_SERVER_PREFIXES))
    }

"""Which key a real model needs, and what of the user's environment the demo's stack gets to see."""

from collections.abc import Mapping, Sequence

from muster.common.model_keys import KEYS

_OURS = ("MUSTER_", "COVERAGE")
_OF_OTHER_SERVERS = ("MUSTER_CONFIG", "MUSTER_NATS_TLS_", "MUSTER_DATABASE_TLS_")
"""The demo starts servers of its own, whatever the user has configured."""
_EVERYONE = frozenset({"PATH", "HOME", "LANG", "TMPDIR"})
_WAY_OUT = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"})
_ELSEWHERE: Mapping[str, Sequence[str]] = {
    "bedrock": ("AWS_ACCESS_KEY_ID",),
    "ollama": ("OLLAMA_API_BASE",),
    "vertex_ai": ("GOOGLE_APPLICATION_CREDENTIALS", "VERTEXAI_PROJECT"),
}
_BY_BARE_NAME = (("claude", "anthropic"), ("gemini", "gemini"))


def vendor(model: str) -> str:
    """`anthropic/claude-…` is anthropic's; a bare name is known by its beginning, and otherwise OpenAI's."""
    name, slash, _ = model.partition("/")
    if slash:
        return name
    return next((whose for begins, whose in _BY_BARE_NAME if name.startswith(begins)), "openai")


def key_names(model: str) -> Sequence[str]:
    """The variables one of which has to be set."""
    name = vendor(model)
    return KEYS.get(name) or _ELSEWHERE.get(name, (f"{name.upper().replace('-', '_')}_API_KEY",))


def missing_key(model: str, env: Mapping[str, str]) -> str | None:
    """Why this model cannot be called, as a sentence; None if it can."""
    names = key_names(model)
    if any(env.get(name) for name in names):
        return None
    return f"--model {model} needs a key: set {' or '.join(names)}. It is given to the gateway and to nothing else."


def demo_environment(env: Mapping[str, str], model: str | None) -> dict[str, str]:
    """With a real model its vendor's variables and the way out; without one nobody's key and no proxy."""
    prefixes: tuple[str, ...] = _OURS
    kept = _EVERYONE
    if model:
        prefixes += tuple(f"{name.partition('_')[0]}_" for name in key_names(model))
        kept |= _WAY_OUT
    return {
        name: value
        for name, value in env.items()
        if name.upper() in kept or (name.startswith(prefixes) and not name.startswith(_OF_OTHER_SERVERS))
    }

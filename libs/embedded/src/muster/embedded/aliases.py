"""The variables of other programs that `muster up` accepts in place of its own settings.

`ALIASES` is the one declaration: `with_aliases` applies it, and `docs/configuration.md` lists it. A `MUSTER_` variable
that is set has precedence over each alias of it.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from muster.common.described_model import ADDRESS_VARIABLES, KEY_VARIABLE, LLM, MODEL_VARIABLES, described_model
from muster.common.faults import InvalidMessage

_LONGEST_S = 86_400.0
_DEFAULT_MODEL = "MUSTER_DEFAULT_MODEL"
_BOOLEANS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), "true"),
    **dict.fromkeys(("0", "false", "no", "off"), "false"),
}


class Alias(NamedTuple):
    """A variable of another program, the setting that it stands for, and its meaning as a sentence."""

    variable: str
    setting: str
    """The `MUSTER_` variable; empty if the variable alone sets no variable."""
    note: str
    read: Callable[[str], str] = str.strip
    """Returns the value of the setting. Raises `ValueError` with a sentence for a wrong value."""
    effect: bool = True
    """Whether the variable has an effect."""


def _seconds(text: str) -> str:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 1 <= seconds <= _LONGEST_S:
        raise ValueError(f"write a number of seconds from 1 to {_LONGEST_S:.0f}")
    return f"{seconds:g}"


def _boolean(text: str) -> str:
    try:
        return _BOOLEANS[text.strip().lower()]
    except KeyError:
        raise ValueError("write true or false") from None


_NAMED = "The model of tasks that name no model."
_AT = "The address of the model's server. With a model's name it describes the model `llm`, which becomes the default."
ALIASES: Final = (
    *(Alias(variable, _DEFAULT_MODEL, _NAMED) for variable in MODEL_VARIABLES),
    *(Alias(variable, "", _AT) for variable in ADDRESS_VARIABLES),
    Alias(KEY_VARIABLE, "", "The key of the model `llm`. Only the gateway gets the variable."),
    Alias("OPENHANDS_TIMEOUT", "MUSTER_DEFAULT_TIMEOUT_S", "Seconds that one attempt may take.", _seconds),
    Alias(
        "OPENHANDS_ENABLE_CIRCUIT_BREAKER",
        "MUSTER_MODEL_BREAKER",
        "Whether model calls are refused after too many failures in a row.",
        _boolean,
    ),
    Alias(
        "OPENHANDS_WORKSPACE_ROOT",
        "",
        "No effect: each attempt works in a new clone of the task's repository.",
        effect=False,
    ),
    Alias(
        "OPENHANDS_USE_DOCKER_RUNTIME",
        "",
        "No effect: Muster isolates agents with bubblewrap, and `--isolation` selects the isolation.",
        effect=False,
    ),
)
"""All aliases. Of several aliases of one setting, the first one that is set counts."""


def with_aliases(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with the `MUSTER_` variables that aliases stand for.

    Raises `InvalidMessage` with the name of the alias whose value is wrong.
    """
    return {**env, **{setting: value for setting, (_, value) in _translated(env).items()}}


def alias_notes(env: Mapping[str, str]) -> list[str]:
    """Return a line about the aliases that are used, and a line about the variables that have no effect.

    Neither line contains a value, except the name of the described model. Raises `InvalidMessage` as `with_aliases`.
    """
    described = described_model(env)
    used = [f"{name} as {setting}" for setting, (name, _) in _translated(env).items()]
    if described:
        used.append(f"{', '.join(described.variables)} as the model {LLM}")
    unused = [alias.variable for alias in ALIASES if not alias.effect and env.get(alias.variable)]
    if not described:
        unused += [name for name in (*ADDRESS_VARIABLES, KEY_VARIABLE) if env.get(name, "").strip()]
    lines = [f"Used: {'; '.join(used)}."] if used else []
    return [*lines, f"Without effect here: {', '.join(unused)} (see docs/configuration.md)."] if unused else lines


def _translated(env: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return the settings that aliases set: the alias and the value by the setting's name."""
    described = described_model(env)
    found: dict[str, tuple[str, str]] = {}
    for alias in ALIASES:
        text = env.get(alias.variable, "").strip()
        if not text or not alias.setting or alias.setting in env or alias.setting in found:
            continue
        try:
            value = alias.read(text)
        except ValueError as error:
            raise InvalidMessage(f"{alias.variable} is wrong: {error}") from None
        named = described is not None and alias.setting == _DEFAULT_MODEL
        found[alias.setting] = alias.variable, LLM if named else value
    return found

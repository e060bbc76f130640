"""Where a URL or a key was found, in words, and what to do when it is of no use."""

import shlex
from pathlib import Path
from typing import NamedTuple


class TargetSource(NamedTuple):
    """A flag, a variable, a profile, or a stack's data directory."""

    words: str
    unreachable: str
    refused: str
    without_key: str = ""


_GIVE_KEY = "give --key, set MUSTER_API_KEY, or keep one with `muster auth login`"
URL_OPTION = TargetSource("--url", "check the address", "", _GIVE_KEY)
URL_VARIABLE = TargetSource("MUSTER_API_URL", "correct the variable, or unset it", "", _GIVE_KEY)
KEY_OPTION = TargetSource("--key", "", "give another one")
KEY_VARIABLE = TargetSource("MUSTER_API_KEY", "", "set it to another one, or unset it")
TYPED = TargetSource("what was typed or piped in", "", "nothing was kept; try another one")


def profile_source(name: str, said: str) -> TargetSource:
    """A kept API; `said` is what named it: a flag, a variable, or that it is the default."""
    login = f"`muster auth login --profile {name}`"
    elsewhere = "; `muster profile use` chooses another" if said == "the default" else ""
    return TargetSource(
        f"profile {name}, {said}" if said == "the default" else f"profile {name} ({said})",
        f"`muster profile show {name}` shows it, and `muster profile add {name} --url URL` changes it{elsewhere}",
        f"{login} keeps another one{elsewhere}",
        f"{login} keeps one",
    )


def stack_source(place: Path, said: str = "") -> TargetSource:
    """A stack of this machine; `said` is what named its data directory."""
    words = f"the stack in {place}" + (f" ({said})" if said else "")
    where = f" --data {quoted_path(place)}" if said else ""
    return TargetSource(
        words,
        f"`muster status{where}` shows its processes, and `muster up{where}` starts it",
        f"another stack seems to listen there: look with `muster status{where}`",
        _GIVE_KEY,
    )


def quoted_path(place: Path) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(place))

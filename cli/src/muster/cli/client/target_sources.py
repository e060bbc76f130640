"""Names the source of an API's URL or key (flag, variable, profile or stack), with advice for a wrong value.

Every error about a URL or key contains these texts, so that the user knows which setting to correct.
"""

import shlex
from pathlib import Path
from typing import NamedTuple


class TargetSource(NamedTuple):
    """The setting that an API's URL or key came from, with advice for a wrong URL, a wrong key and a missing key."""

    words: str
    """Name of the source in a sentence, for instance `profile work (--profile)`."""
    unreachable: str
    """Advice if no API answers at the URL."""
    refused: str
    """Advice if the API rejects the key."""
    without_key: str = ""
    """Advice if the source gives a URL but no key."""


_GIVE_KEY = "give --key, set MUSTER_API_KEY, or save a key with `muster auth login`"
URL_OPTION = TargetSource("--url", "check the address", "", _GIVE_KEY)
URL_VARIABLE = TargetSource("MUSTER_API_URL", "correct the variable, or unset it", "", _GIVE_KEY)
KEY_OPTION = TargetSource("--key", "", "give another key")
KEY_VARIABLE = TargetSource("MUSTER_API_KEY", "", "set the variable to another key, or unset it")
PROMPT = TargetSource("the prompt or stdin", "", "no key was saved; try another one")


def profile_source(name: str, selected_by: str) -> TargetSource:
    """Return the `TargetSource` of a saved profile; `selected_by` is a flag, a variable or `the default`."""
    login = f"`muster auth login --profile {name}`"
    is_default = selected_by == "the default"
    elsewhere = "; `muster profile use` selects another profile" if is_default else ""
    return TargetSource(
        f"profile {name}, {selected_by}" if is_default else f"profile {name} ({selected_by})",
        f"`muster profile show {name}` shows it, and `muster profile add {name} --url URL` changes it{elsewhere}",
        f"{login} saves another key{elsewhere}",
        f"{login} saves a key",
    )


def stack_source(data_dir: Path, selected_by: str = "") -> TargetSource:
    """Return the `TargetSource` of a local stack; `selected_by` is the flag or variable that selected `data_dir`."""
    words = f"the stack in {data_dir}" + (f" ({selected_by})" if selected_by else "")
    option = f" --data {quoted_path(data_dir)}" if selected_by else ""
    return TargetSource(
        words,
        f"`muster status{option}` shows its processes, and `muster up{option}` starts it",
        f"another stack seems to listen there: check with `muster status{option}`",
        _GIVE_KEY,
    )


def quoted_path(path: Path) -> str:
    """Return a path quoted for a POSIX shell."""
    return shlex.quote(str(path))

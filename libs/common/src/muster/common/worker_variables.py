"""Checks the environment variables that a task or a package sets for its worker and its commands.

They are stored and shown, so they must not be secrets. Variables that Muster sets itself are refused: they decide which
programs and Python modules the worker loads, and how the sandbox reaches the network.
"""

import re
from collections.abc import Mapping
from typing import Final

from muster.common.faults import InvalidMessage

SECRET_NAME: Final = re.compile(
    r"(?i)(secrets?|password|passwd|pgpass|credentials?|private|apikey|(^|_)(key|token|pwd|pat))(_|$)"
)
_RESERVED: Final = re.compile(r"(?i)PATH|HOME|PYTHON.*|LD_.*|MUSTER_.*|(HTTP|HTTPS|FTP|ALL|NO)_PROXY")


def refuse_variables(variables: Mapping[str, str], *, field: str = "$.env") -> None:
    """Raise `InvalidMessage` for the first variable that may be a secret, or that Muster sets itself."""
    for name in variables:
        if SECRET_NAME.search(name):
            raise InvalidMessage(
                f"env.{name} looks like a secret, but env is stored and shown; remove it", field=f"{field}.{name}"
            )
        if is_reserved(name):
            raise InvalidMessage(
                f"env.{name} is set by Muster for every sandbox and cannot be changed; remove it",
                field=f"{field}.{name}",
            )


def is_reserved(name: str) -> bool:
    """Whether Muster sets this variable itself, so that a task and a package cannot."""
    return bool(_RESERVED.fullmatch(name))

"""How a service process begins and ends."""

import resource
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
import uvloop
from pydantic import ValidationError

from muster.common.faults import Fault
from muster.common.logs import log_to_stderr
from muster.common.secrecy import hide_from_other_processes
from muster.common.settings import ProcessSettings
from muster.common.supervision import GaveUpError

log = structlog.get_logger()


def read_settings[S: ProcessSettings](settings: Callable[..., S]) -> S:
    """From the environment, which nobody else can read from then on.

    Exits with 2 and a line per wrong variable; values are not repeated.
    """
    hide_from_other_processes()
    try:
        return settings()
    except ValidationError as error:
        for wrong in error.errors(include_input=False, include_url=False):
            name = "_".join(str(part) for part in wrong["loc"]).upper()
            sys.stderr.write(f"MUSTER_{name}: {wrong['msg']}\n")
        sys.exit(2)


def run_service(name: str, settings: ProcessSettings, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a service to its end. Exits with 1, saying why, when it cannot go on: whoever started it replaces it."""
    log_to_stderr(name, level=settings.log_level)
    open_as_many_files_as_allowed()
    try:
        uvloop.run(run())
    except* (Fault, GaveUpError) as gave_up:
        for error in gave_up.exceptions:
            log.error("service ends", error=str(error))  # noqa: TRY400 - the sentence is what a person needs
        sys.exit(1)


def open_as_many_files_as_allowed() -> None:
    """Raise the soft limit of open files to the hard one: the usual 1,024 is one crowd of connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

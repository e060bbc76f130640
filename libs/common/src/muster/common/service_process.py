"""Reads the settings of a service, and runs the service until it ends."""

import gc
import os
import resource
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import structlog
import uvloop
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from muster.common.configuration_file import ConfigurationError, where
from muster.common.faults import Fault
from muster.common.logs import log_to_stderr
from muster.common.process_hardening import hide_from_other_processes
from muster.common.settings import ProcessSettings
from muster.common.supervision import GaveUpError

log = structlog.get_logger()


def read_settings[S: ProcessSettings](settings: type[S]) -> S:
    """Read the settings from the environment and the configuration file.

    Hides the environment from other processes. Exits with 2 and one line per wrong setting, without its value.
    """
    hide_from_other_processes()
    try:
        return settings()
    except ConfigurationError as error:
        lines = error.faults
    except ValidationError as error:
        lines = [_complaint(settings, wrong) for wrong in error.errors(include_input=False, include_url=False)]
    sys.stderr.write("".join(f"{line}\n" for line in lines))
    sys.exit(2)


def _complaint(settings: type[ProcessSettings], wrong: ErrorDetails) -> str:
    if not wrong["loc"]:
        return wrong["msg"]
    return f"{where(settings.known(), str(wrong['loc'][0]), os.environ)}: {wrong['msg']}"


def run_service(name: str, settings: ProcessSettings, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a service to its end. Exits with 1 and logs the error if the service cannot continue.

    The parent process then starts the service again.
    """
    log_to_stderr(name, level=settings.log_level)
    open_as_many_files_as_allowed()
    # `gc.freeze` excludes the imported modules from garbage collection. A full collection of them takes 0.1 s, in which
    # the service handles no request.
    gc.freeze()
    try:
        uvloop.run(run())
    except* (Fault, GaveUpError) as gave_up:
        for error in gave_up.exceptions:
            log.error("service stopped by an error", error=str(error))  # noqa: TRY400 - the sentence is what a person needs
        sys.exit(1)


def open_as_many_files_as_allowed() -> None:
    """Raise the soft limit of open files to the hard limit: the usual 1,024 is too low for many connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

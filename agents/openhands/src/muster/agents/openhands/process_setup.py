"""Prepares this process for the OpenHands SDK: sets environment variables, and then imports the SDK.

A fork server imports `preload`, which imports the SDK. Then each worker, a fork of that process, finds it imported.
"""

import gc
import logging
import os
import sys
import time
import warnings
from importlib import import_module
from pathlib import Path

_ENVIRONMENT = {
    # Without this variable, the SDK's import downloads a price list and may crash offline.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENHANDS_SUPPRESS_BANNER": "1",
    "DO_NOT_TRACK": "1",
    "LOG_AUTO_CONFIG": "false",  # OpenHands must not set up logging, because Muster's agent SDK writes the log.
    "TZ": "UTC",  # OpenHands writes timestamps in local time without a zone, so the local time must be UTC.
    "NO_COLOR": "1",  # Without this variable, the output of commands would contain colour codes.
}
_MODULES = ("openhands.sdk", "openhands.tools.terminal", "openhands.tools.file_editor")


def prepare_environment(state_dir: Path) -> None:
    """Set the environment: few logs, UTC, and a home directory without rc files, which could break the terminal."""
    home = state_dir / "home"
    home.mkdir(parents=True, exist_ok=True)
    (home / ".inputrc").write_text("set enable-bracketed-paste off\n")
    os.environ["HOME"] = str(home)
    set_variables()


def set_variables() -> None:
    """Set the environment variables that the SDK reads when it is imported, and reduce its log output."""
    os.environ.update(_ENVIRONMENT)
    time.tzset()
    # The worker does not need the cost of model requests, because the gateway counts the usage of models.
    warnings.filterwarnings("ignore", message="Cost calculation failed")
    logging.getLogger("openhands").setLevel(logging.WARNING)


def import_openhands() -> None:
    """Import the SDK, which takes 4 s of CPU. The garbage collector is off meanwhile, which saves 20 % of this time."""
    if all(module in sys.modules for module in _MODULES):
        return  # Freezing would move the objects of this worker to those of its fork server.
    gc.disable()
    try:
        for module in _MODULES:
            import_module(module)  # The modules register their tools and kinds of events.
    finally:
        gc.freeze()
        gc.enable()

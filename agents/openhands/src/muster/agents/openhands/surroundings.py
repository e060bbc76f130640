"""What must be true of the process before OpenHands is imported. Nothing here imports it."""

import gc
import logging
import os
import time
import warnings
from importlib import import_module
from pathlib import Path

_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else its import fetches a price list, and offline crashes now and then
    "OPENHANDS_SUPPRESS_BANNER": "1",
    "DO_NOT_TRACK": "1",
    "LOG_AUTO_CONFIG": "false",  # our log lines are JSON on stderr
    "TZ": "UTC",  # OpenHands' timestamps are naive local time
    "NO_COLOR": "1",  # what the model reads should be words
}


def settle(state_dir: Path) -> None:
    """Sets the environment: quiet, in UTC, and with a home where no rc file slows down or breaks the terminal."""
    home = state_dir / "home"
    home.mkdir(parents=True, exist_ok=True)
    (home / ".inputrc").write_text("set enable-bracketed-paste off\n")
    os.environ.update(_ENVIRONMENT, HOME=str(home))
    time.tzset()
    warnings.filterwarnings("ignore", message="Cost calculation failed")  # the gateway meters, not the worker
    logging.getLogger("openhands").setLevel(logging.WARNING)


def import_openhands() -> None:
    """The four seconds of CPU, once. Without the collector, which would walk a growing heap, it is a fifth less."""
    gc.disable()
    try:
        for module in ("openhands.sdk", "openhands.tools.terminal", "openhands.tools.file_editor"):
            import_module(module)  # the tools register themselves and the kinds of their events
    finally:
        gc.freeze()
        gc.enable()

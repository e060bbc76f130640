"""Prepares the process for OpenHands: sets the environment before the SDK is imported, and imports the SDK."""

import gc
import logging
import os
import time
import warnings
from importlib import import_module
from pathlib import Path

_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # Otherwise the import downloads a price list, and may crash offline.
    "OPENHANDS_SUPPRESS_BANNER": "1",
    "DO_NOT_TRACK": "1",
    "LOG_AUTO_CONFIG": "false",  # The agent SDK itself writes JSON lines to stderr.
    "TZ": "UTC",  # OpenHands' timestamps are local time without a zone.
    "NO_COLOR": "1",  # Colour codes would reach the model.
}


def prepare_environment(state_dir: Path) -> None:
    """Set the environment: few logs, UTC, and a home directory without rc files, which could break the terminal."""
    home = state_dir / "home"
    home.mkdir(parents=True, exist_ok=True)
    (home / ".inputrc").write_text("set enable-bracketed-paste off\n")
    os.environ.update(_ENVIRONMENT, HOME=str(home))
    time.tzset()
    warnings.filterwarnings("ignore", message="Cost calculation failed")  # the gateway counts the usage, not the worker
    logging.getLogger("openhands").setLevel(logging.WARNING)


def import_openhands() -> None:
    """Import the SDK, which takes 4 s of CPU. The garbage collector is off meanwhile, which saves a fifth of that."""
    gc.disable()
    try:
        for module in ("openhands.sdk", "openhands.tools.terminal", "openhands.tools.file_editor"):
            import_module(module)  # the import registers the tools and the kinds of their events
    finally:
        gc.freeze()
        gc.enable()

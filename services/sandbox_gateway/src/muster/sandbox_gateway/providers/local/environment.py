"""The environment variables of processes in local sandboxes."""

import sys
from pathlib import Path


def process_environment(home: Path) -> dict[str, str]:
    """Return the environment variables of a process. They contain no secrets, because the agent can read them."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONDONTWRITEBYTECODE": "1",
    }

"""What a service was told, and what it holds in memory, is hidden from processes of the same user."""

import subprocess
import sys

STARTED = """
import ctypes
from muster.common.running import read_settings
from muster.common.settings import ProcessSettings
PR_GET_DUMPABLE = 3
before = ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)
read_settings(ProcessSettings)
print(before, ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0))
"""


def test_a_process_that_has_read_its_settings_cannot_be_read_by_others_of_its_user() -> None:
    started = subprocess.run([sys.executable, "-c", STARTED], capture_output=True, text=True, check=True)

    assert started.stdout.split() == ["1", "0"], "the kernel gives such a process's /proc files to root"

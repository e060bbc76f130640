"""Runs the test calls of a model in a process with the code, the variables and the settings of the gateway."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from muster.cli.console.output import Exit, fail
from muster.common.contract import encode
from muster.common.contracts.model_tests import (
    FailedTestCall,
    ModelTestLine,
    ModelTestRequest,
    ModelTestResult,
    ModelTestStep,
)
from muster.common.faults import Fault
from muster.common.terminal import printable

if TYPE_CHECKING:
    from rich.status import Status
    from rich.text import Text

TRIAL_DEADLINE_S = 45.0
_GRACE_S = 2.0
"""Seconds after its deadline at which a process is killed whose code blocks."""
_TAIL_BYTES = 2_000
_STEPS: dict[ModelTestStep, str] = {
    "import": "LiteLLM is loaded",
    "word": "{model} is asked for one word",
    "tool": "{model} is asked to call a tool",
}


def run_trial_process(
    model: str, data_dir: Path, timeout_s: float, on_step: Callable[[ModelTestStep], None] = lambda _: None
) -> ModelTestResult:
    """Test a model within `timeout_s` seconds, and return the result. Calls `on_step` when a step begins.

    Ends the command if `models.toml` or a variable is wrong, or if the process fails.
    """
    from muster.embedded.environment import model_test_environment

    try:
        env = model_test_environment(os.environ, data_dir)
    except Fault as error:
        fail(str(error), Exit.USAGE)
    request = ModelTestRequest(model=model, ends_at_s=time.monotonic() + timeout_s)
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(
            [sys.executable, "-m", "muster.sandbox_gateway", "test-model"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=env,
        ) as process:
            killer = threading.Timer(timeout_s + _GRACE_S, process.kill)
            killer.start()
            try:
                last = _result(process, request, on_step)
            finally:
                killer.cancel()
                process.kill()
        if isinstance(last, ModelTestResult):
            return last
        if time.monotonic() < request.ends_at_s:
            fail(f"the test process ended without a result: {_tail(errors)}")
        late = FailedTestCall(kind="timeout", error=f"no result within {timeout_s:g} s", step=last)
        return ModelTestResult(model=model, failed=late)


class StepStatus:
    """A line on the terminal that says for what the command waits. Without a terminal nothing is shown."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._status: Status | None = None
        if sys.stderr.isatty():
            from rich.console import Console

            self._status = Console(stderr=True).status(_line("the test process starts"))

    def __enter__(self) -> Callable[[ModelTestStep], None]:
        if self._status:
            self._status.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def _show(self, step: ModelTestStep) -> None:
        if self._status:
            self._status.update(_line(_STEPS[step].format(model=self._model)))


def _line(text: str) -> "Text":
    """Return the text of the status line. A plain string would be read as markup."""
    from rich.text import Text

    return Text(f"{printable(text)} …")


def _result(
    process: "subprocess.Popen[bytes]", request: ModelTestRequest, on_step: Callable[[ModelTestStep], None]
) -> ModelTestResult | ModelTestStep:
    """Return the result, or the last step if the process ends without a result."""
    assert process.stdin
    assert process.stdout
    step: ModelTestStep = "import"
    try:
        with process.stdin:
            process.stdin.write(encode(request) + b"\n")
    except BrokenPipeError:  # The process has ended. Its stderr contains the reason.
        return step
    for body in process.stdout:
        line = ModelTestLine.from_json(body)
        if line.result:
            return line.result
        if line.step:
            step = line.step
            on_step(step)
    return step


def _tail(errors: IO[bytes]) -> str:
    size = errors.seek(0, os.SEEK_END)
    errors.seek(max(0, size - _TAIL_BYTES))
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no error text"

"""Works around faults of OpenHands' terminal (SDK 1.58.0): waits for a ready shell and interrupts commands."""

import secrets
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, override

if TYPE_CHECKING:
    from openhands.sdk import LocalConversation
    from openhands.tools.terminal import TerminalExecutor

SHELL_DEADLINE_S = 60.0
_INTERRUPT_EVERY_S = 0.5
_FIRST_WAIT_S = 1.0
"""Seconds of the first wait for an answer of the shell; each further wait is twice as long. A shell that handles an
interrupt discards the line that is typed meanwhile, so the question must be repeated."""


class ToolThreads(ThreadPoolExecutor):
    """The threads that run tool calls. After an interrupted conversation, a thread may still run a tool call."""

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="tool")
        self._running = set[Future[Any]]()

    @override
    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future = super().submit(fn, *args, **kwargs)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future

    def settled(self, deadline_s: float) -> bool:
        """Wait until no tool call runs, because two commands would mix their output; return False at the deadline."""
        return not wait(set(self._running), deadline_s).not_done


def wait_for_ready_shell(conversation: "LocalConversation") -> None:
    """Open the terminal; return when its shell has handled all input. Raises `TimeoutError` after 60 s.

    Works around two faults of the SDK's PTY terminal (1.58.0). On a busy machine the terminal takes a late prompt for
    the end of the next command, and then every observation contains the output of an earlier command.
    - The set-up of the terminal waits one second, and does not check whether the shell is ready.
    - The terminal searches for its prompt without the carriage returns that a PTY adds, and never finds the prompt. So
      the terminal requests one more prompt after each command, and this prompt may arrive during the next command.
    """
    from openhands.tools.terminal import TerminalAction

    # The SDK opens the terminal for its first command. The command here is empty, so the shell runs nothing.
    conversation.execute_tool("terminal", TerminalAction(command=""))
    executor = _executor(conversation)
    if executor is None:
        return
    terminal: Any = executor.session.terminal
    add_text: Callable[[str], None] = terminal._add_text_to_buffer  # noqa: SLF001 - no public method precedes the search

    def without_returns(text: str) -> None:
        add_text(text.replace("\r", ""))

    terminal._add_text_to_buffer = without_returns  # noqa: SLF001 - as above
    if not _wait_for_shell(terminal, SHELL_DEADLINE_S):
        raise TimeoutError(
            f"the sandbox's shell was not ready within {SHELL_DEADLINE_S:.0f} s; the machine may be overloaded"
        )


def _wait_for_shell(terminal: Any, deadline_s: float) -> bool:  # noqa: ANN401 - as above
    """Return whether the shell handles all of its input before the deadline; if so, clear the screen."""
    deadline, wait_s = time.monotonic() + deadline_s, _FIRST_WAIT_S
    while (left_s := deadline - time.monotonic()) > 0:
        if _shell_answers(terminal, min(left_s, wait_s)):
            return True
        wait_s *= 2
    return False


def _shell_answers(terminal: Any, within_s: float) -> bool:  # noqa: ANN401 - as above
    from openhands.tools.terminal.constants import CMD_OUTPUT_PS1_END

    # Each `printf` command contains a new token, so that a late answer to an earlier command is not accepted. The
    # terminal echoes the command, but only the output of the command contains the text "ready-<token>".
    token = secrets.token_hex(8)
    terminal.send_keys(f"printf '%s-%s\\n' ready {token}")
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        # `read_screen` waits a short time, so this loop does not use a whole CPU core.
        _, ready, after = terminal.read_screen().partition(f"ready-{token}")
        if ready and after.rstrip().endswith(CMD_OUTPUT_PS1_END.rstrip()):
            terminal.clear_screen()
            return True
    return False


def interrupt_command(conversation: "LocalConversation") -> None:
    """Interrupt the running command by Ctrl-C in the terminal.

    The SDK would signal the shell's process group, but an interactive shell runs each command in another group.
    """
    if executor := _executor(conversation):
        executor.session.terminal.send_keys("C-c", enter=False)


def wait_after_interrupt(conversation: "LocalConversation", tools: ToolThreads, deadline_s: float) -> bool:
    """Return whether the interrupted command ends and the shell is ready for another command before the deadline.

    Repeats the Ctrl-C, because a Ctrl-C that arrives before the shell has read the command does not stop the command.
    """
    deadline = time.monotonic() + deadline_s
    while not tools.settled(_INTERRUPT_EVERY_S):
        if time.monotonic() > deadline:
            return False
        interrupt_command(conversation)
    executor = _executor(conversation)
    # A program that still runs would read the test command of `_wait_for_shell` as its input.
    if executor is None or executor.session.is_running():
        return True
    return _wait_for_shell(executor.session.terminal, deadline_s)


def _executor(conversation: "LocalConversation") -> "TerminalExecutor | None":
    from openhands.tools.terminal import TerminalExecutor

    # The type `Any` is used because the type parameters of the agent's tools are unknown.
    agent: Any = conversation.agent
    tool = agent.tools_map.get("terminal")
    executor = tool and tool.executor
    return executor if isinstance(executor, TerminalExecutor) else None

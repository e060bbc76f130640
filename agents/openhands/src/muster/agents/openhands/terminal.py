"""What OpenHands' terminal needs around it: a shell that is really ready, and interrupting what runs in it."""

import secrets
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, override

if TYPE_CHECKING:
    from openhands.sdk import LocalConversation
    from openhands.tools.terminal import TerminalExecutor

SHELL_DEADLINE_S = 60.0
_AGAIN_S = 0.5
_ASK_AGAIN_S = 1.0
"""What is typed while a shell still takes an interrupt is dropped with its line. Each wait is twice the last."""


class ToolThreads(ThreadPoolExecutor):
    """The threads that tools run in. An interrupted run leaves its tool behind in one of them."""

    def __init__(self) -> None:
        super().__init__(thread_name_prefix="tool")
        self._at_work = set[Future[Any]]()

    @override
    def submit[**P, T](self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future = super().submit(fn, *args, **kwargs)
        self._at_work.add(future)
        future.add_done_callback(self._at_work.discard)
        return future

    def settled(self, deadline_s: float) -> bool:
        """Waits until nothing is at work: two commands at once would read each other's output."""
        return not wait(set(self._at_work), deadline_s).not_done


def steady_shell(conversation: "LocalConversation") -> None:
    """Opens the terminal, and returns when its shell has taken everything it was sent. Raises `TimeoutError`.

    Two faults of the SDK's PTY terminal (1.58.0), which a busy machine shows: a prompt that comes late is taken for the
    end of the command after it, and from then on an observation is a cut of some output before it.
    - Its set-up gives the shell one second, and does not look whether that was enough.
    - It looks for its prompt without the carriage returns that a PTY puts there, so it never finds it, and after each
      command asks for one more prompt, which races with the next command.
    """
    from openhands.tools.terminal import TerminalAction

    conversation.execute_tool("terminal", TerminalAction(command=""))  # runs nothing; opens the terminal if need be
    executor = _executor(conversation)
    if executor is None:
        return
    terminal: Any = executor.session.terminal
    keep: Callable[[str], None] = terminal._add_text_to_buffer  # noqa: SLF001 - nothing public lies before the search

    def without_returns(text: str) -> None:
        keep(text.replace("\r", ""))

    terminal._add_text_to_buffer = without_returns  # noqa: SLF001 - as above
    if not _answers(terminal, SHELL_DEADLINE_S):
        raise TimeoutError(f"the sandbox's shell was not ready within {SHELL_DEADLINE_S:.0f} s")


def _answers(terminal: Any, deadline_s: float) -> bool:  # noqa: ANN401 - as above
    """Whether the shell has taken all that it was sent, in time; nothing of it is on the screen then."""
    deadline, wait_s = time.monotonic() + deadline_s, _ASK_AGAIN_S
    while (left_s := deadline - time.monotonic()) > 0:
        if _answered(terminal, min(left_s, wait_s)):
            return True
        wait_s *= 2
    return False


def _answered(terminal: Any, within_s: float) -> bool:  # noqa: ANN401 - as above
    from openhands.tools.terminal.constants import CMD_OUTPUT_PS1_END

    word = secrets.token_hex(8)  # a new one each time: the answer to the last question is the last to come
    terminal.send_keys(f"printf '%s-%s\\n' ready {word}")  # its echo is not its output
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        _, ready, after = terminal.read_screen().partition(f"ready-{word}")  # waits a moment itself
        if ready and after.rstrip().endswith(CMD_OUTPUT_PS1_END.rstrip()):
            terminal.clear_screen()
            return True
    return False


def break_command(conversation: "LocalConversation") -> None:
    """Ctrl-C through the terminal.

    The SDK signals the shell's own process group, where an interactive shell's foreground command never is.
    """
    if executor := _executor(conversation):
        executor.session.terminal.send_keys("C-c", enter=False)


def come_to_rest(conversation: "LocalConversation", tools: ToolThreads, deadline_s: float) -> bool:
    """After an interrupt: whether what ran has ended in time, and the shell waits for the next command.

    A Ctrl-C that came before its command had reached the shell went by, and left one more prompt on the screen.
    """
    deadline = time.monotonic() + deadline_s
    while not tools.settled(_AGAIN_S):
        if time.monotonic() > deadline:
            return False
        break_command(conversation)
    executor = _executor(conversation)
    if executor is None or executor.session.is_running():  # something that waits for input is not to be typed into
        return True
    return _answers(executor.session.terminal, deadline_s)


def _executor(conversation: "LocalConversation") -> "TerminalExecutor | None":
    from openhands.tools.terminal import TerminalExecutor

    agent: Any = conversation.agent  # its tools' type parameters are open
    executor = agent.tools_map["terminal"].executor
    return executor if isinstance(executor, TerminalExecutor) else None

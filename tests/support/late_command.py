"""A program that sends Ctrl-C before the command reaches OpenHands' terminal. Prints the results of both as JSON.

With the argument `drop`, the next line that is typed is lost, as in a shell that still handles the interrupt.
"""

import json
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from muster.agents.openhands.process_setup import import_openhands, prepare_environment
from muster.agents.openhands.terminal import ToolThreads, interrupt_command, wait_after_interrupt, wait_for_ready_shell


def main(home: Path, *, drop: bool) -> None:
    prepare_environment(home)
    import_openhands()
    from openhands.tools.terminal import TerminalAction, TerminalExecutor

    executor = TerminalExecutor(working_dir=str(home), terminal_type="subprocess")
    threads, sent = ToolThreads(), threading.Event()

    def execute_tool(_name: str, action: TerminalAction) -> object:
        return executor(action)

    def tool(command: str) -> Any:
        sent.wait()
        return executor(TerminalAction(command=command, timeout=90))

    tools = {"terminal": SimpleNamespace(executor=executor)}
    conversation: Any = SimpleNamespace(agent=SimpleNamespace(tools_map=tools), execute_tool=execute_tool)
    wait_for_ready_shell(conversation)
    late = threads.submit(tool, "sleep 60; echo never")
    interrupt_command(conversation)
    sent.set()
    if drop:
        while not threads.settled(0.5):
            interrupt_command(conversation)
        drop_the_next(executor.session.terminal)
    rested = wait_after_interrupt(conversation, threads, 60)
    told = {
        "rested": rested,
        "exit_code": late.result(60).metadata.exit_code,
        "next": threads.submit(tool, "echo next").result(60).text.splitlines()[0],
    }
    executor.close()
    threads.shutdown()
    sys.stdout.write(json.dumps(told))


def drop_the_next(terminal: Any) -> None:
    send = terminal.send_keys

    def dropped(*_: object) -> None:
        terminal.send_keys = send

    terminal.send_keys = dropped


main(Path(sys.argv[1]), drop="drop" in sys.argv[2:])

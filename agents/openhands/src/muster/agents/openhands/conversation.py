"""Runs one OpenHands conversation in a thread with a separate event loop.

The SDK does long synchronous work in its event loop (imports, prompts, state), which must not delay heartbeats. The
conversation's lock is re-entrant per thread, so only a message from another thread waits until the lock is free.
"""

import asyncio
import logging
import threading
import uuid
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from muster.agent.task_run import TaskContext
from muster.agents.openhands.automatic_replies import AutomaticReplies
from muster.agents.openhands.event_files import EventFiles, conversation_folder
from muster.agents.openhands.iterations import REACHED, IterationLimit
from muster.agents.openhands.mcp_servers import McpServerFailed
from muster.agents.openhands.model_client import model_client
from muster.agents.openhands.model_failures import result_of_failure, retry_after_s, worth_retrying
from muster.agents.openhands.options import Options
from muster.agents.openhands.process_setup import import_openhands, prepare_environment
from muster.agents.openhands.prompts import first_message
from muster.agents.openhands.terminal import ToolThreads, interrupt_command, wait_after_interrupt, wait_for_ready_shell
from muster.common.contracts.sandbox_log import Finished

if TYPE_CHECKING:
    from openhands.sdk import LocalConversation
    from openhands.sdk.conversation.exceptions import ConversationRunError
    from openhands.sdk.event import Event

_NAMESPACE = uuid.UUID("6f1d3c52-8a0e-5b7e-9d3f-2f4f0b1c7a11")
_REFUSED = (
    "This action was refused as too risky, and no person can confirm it. Choose a safer way to do the work, or finish "
    "and say what could not be done."
)
_REST_DEADLINE_S = 10.0
_READY_DEADLINE_S = 120.0
_HALF_RUN = (
    "The worker was stopped while this ran. It may have run in part, and its output is lost. "
    "Look at what it left behind before you repeat it."
)

logger = logging.getLogger(__name__)


def conversation_uuid(conversation_id: str) -> uuid.UUID:
    """Return the UUID of a conversation for OpenHands; every launch computes the same UUID."""
    return uuid.uuid5(_NAMESPACE, conversation_id)


def event_folder(context: TaskContext) -> Path:
    """Return the folder in which OpenHands writes the events of this conversation."""
    return conversation_folder(context.state_dir) / conversation_uuid(context.handoff.conversation_id).hex / "events"


class Conversation:
    """One OpenHands conversation. `drive` runs in one thread; other threads may call `deliver` and `stop`."""

    def __init__(self, context: TaskContext, files: EventFiles, options: Options) -> None:
        self._context, self._files, self._options = context, files, options
        self._iterations = IterationLimit(options.max_iterations)
        # With this lock `deliver` adds no message while `_rounds` decides whether the conversation has ended.
        self._gate = threading.Lock()
        self._ready, self._idle, self._stopping = threading.Event(), threading.Event(), threading.Event()
        self._rounds_begun = 0
        self._interruption = threading.Event()
        self._replies = AutomaticReplies(context.handoff)
        self._interrupted = self._over = False
        self._open: LocalConversation | None = None
        self._tools = ToolThreads()

    def drive(self, base_url: str) -> Finished:
        """Run the conversation from the last event on disk to the end; return the result. Blocks the thread."""
        try:
            prepare_environment(self._context.state_dir)
            import_openhands()
            self._open = conversation = self._opened(base_url)
            with asyncio.Runner() as runner, closing(conversation):  # Closes the terminal before the event loop.
                runner.get_loop().set_default_executor(self._tools)
                return self._rounds(conversation, runner)
        except McpServerFailed as failure:
            return Finished(outcome="error", error=str(failure))
        finally:
            self._files.list_again()  # All events precede the result, also events that the SDK has not reported.
            self._over = True
            self._ready.set()

    def deliver(self, text: str, sender: str, *, urgent: bool) -> None:
        """Add a message to the conversation for the next model request; `urgent` interrupts the current call."""
        self._ready.wait(_READY_DEADLINE_S)
        round_before = self._rounds_begun
        if urgent:
            self._interrupt()  # Called without the lock, which another call of `deliver` may hold for long.
        with self._gate:
            if self._over or self._open is None:
                return  # The run has ended, so the steering message will be recorded as expired.
            if urgent and self._rounds_begun == round_before:
                self._idle.wait(_REST_DEADLINE_S)  # The tool's observation must precede the steering message.
            self._open.send_message(text, sender=sender)

    def stop(self) -> None:
        """Make `drive` return soon: interrupt the running command or model request and begin no other."""
        self._stopping.set()
        self._interrupt()

    def _interrupt(self) -> None:
        if self._open is None or self._over:
            return
        self._interruption.set()
        in_a_tool = self._context.activity.busy == "tool"
        self._open.interrupt()
        if in_a_tool:
            self._interrupted = True
            interrupt_command(self._open)

    def _opened(self, base_url: str) -> "LocalConversation":
        from muster.agents.openhands.agent_setup import open_conversation

        llm = model_client(self._context.handoff, base_url, self._wait_for_retry)
        identity = conversation_uuid(self._context.handoff.conversation_id)
        conversation = open_conversation(self._context, self._options, llm, self._on_event, identity, repair)
        if not self._files.has_objective():
            conversation.send_message(first_message(self._context.handoff))
        if "terminal" in self._options.tools:
            wait_for_ready_shell(conversation)
        self._files.list_again()  # The SDK has not reported the events that `repair` has written.
        self._context.announce()
        return conversation

    def _rounds(self, conversation: "LocalConversation", runner: asyncio.Runner) -> Finished:
        from openhands.sdk import ConversationExecutionStatus as Status

        self._ready.set()
        while not self._stopping.is_set():
            self._idle.clear()
            self._interruption.clear()
            self._rounds_begun += 1
            self._context.activity.show(busy="model")
            left = self._iterations.left(conversation.state.active_branch())
            if left == 0:
                return self._iterations.result()
            failure = self._round(conversation, runner, left)
            if self._interrupted or not self._tools.settled(0):
                self._interrupted = False
                if not wait_after_interrupt(conversation, self._tools, _REST_DEADLINE_S / 2):
                    logger.warning("interrupted command did not end")
            self._idle.set()
            with self._gate:  # A steering message that has arrived meanwhile has set the status to idle.
                ended = not failure and conversation.state.execution_status in (Status.FINISHED, Status.ERROR)
                if conversation.state.execution_status is Status.WAITING_FOR_CONFIRMATION:
                    conversation.reject_pending_actions(_REFUSED)
                if reply := self._replies.to(failure, _last_message(conversation) if ended else None):
                    conversation.send_message(reply)
                elif failure and not worth_retrying(failure):
                    self._over = True
                    return result_of_failure(failure)
                elif ended:
                    self._over = True
                    return self._result(conversation)
            if failure:
                self._wait_for_retry(0, 0, failure.original_exception)
        return Finished(outcome="error", error="stopped")

    def _round(
        self, conversation: "LocalConversation", runner: asyncio.Runner, iterations: int | None
    ) -> "ConversationRunError | None":
        from openhands.sdk.conversation.exceptions import ConversationRunError

        if iterations is not None:
            conversation.max_iteration_per_run = iterations

        async def one_round() -> None:
            await conversation.arun()

        try:
            runner.run(one_round())
        except asyncio.CancelledError:
            return None  # The interrupt arrived before the SDK's `arun` was able to handle interrupts.
        except ConversationRunError as error:
            return error
        return None

    def _result(self, conversation: "LocalConversation") -> Finished:
        if _last_error(conversation) == REACHED:
            return self._iterations.result()
        return self._replies.checked(_result(conversation))

    def _wait_for_retry(self, _attempt: int, _of: int, error: BaseException | None) -> None:
        """Wait before a model request is repeated, as long as the gateway asks for. The heartbeat shows the wait.

        The SDK calls this between two requests. The wait ends early if the run stops or is interrupted.
        """
        self._context.activity.show(busy="model_retry")
        self._interruption.wait(retry_after_s(error))

    def _on_event(self, event: "Event") -> None:
        """Announce a new event to the outbox. The SDK holds the conversation's lock meanwhile, so this must be fast."""
        self._files.written(event.id)
        acts = type(event).__name__ == "ActionEvent"
        self._context.activity.show(busy="tool" if acts else "model")
        self._context.announce()


def repair(conversation: "LocalConversation") -> None:
    """Set the saved state to the conversation's last event; after a kill the state may be older than the events.

    Add an error event to each action without an observation. Otherwise the SDK would run the action again.
    """
    from openhands.sdk import ConversationExecutionStatus as Status
    from openhands.sdk.conversation.state import ConversationState
    from openhands.sdk.event import AgentErrorEvent, MessageEvent, ObservationEvent

    state = conversation.state
    with state:
        if not len(state.events):
            return
        last = state.events[-1]
        state.leaf_event_id = last.id
        for action in ConversationState.get_unmatched_actions(state.active_branch()):
            state.append_event(
                AgentErrorEvent(error=_HALF_RUN, tool_name=action.tool_name, tool_call_id=action.tool_call_id)
            )
        finished = isinstance(last, ObservationEvent) and last.tool_name == "finish"
        if finished or (isinstance(last, MessageEvent) and last.source == "agent"):
            state.execution_status = Status.FINISHED


def _result(conversation: "LocalConversation") -> Finished:
    """Return the run's result from the last event with a result: a finish message, a plain answer, or an error."""
    for event in reversed(conversation.state.active_branch()):
        match type(event).__name__:
            case "ConversationErrorEvent":
                return Finished(outcome="error", error=_joined(event, "code", "detail"))
            case "ActionEvent":
                return Finished(outcome="success", summary=_joined(getattr(event, "action", None), "message"))
            case "MessageEvent" if event.source == "agent":
                return Finished(outcome="success", summary=_text_of(event))
            case _:
                continue
    return Finished(outcome="error", error="the conversation ended without a message of the agent")


def _last_error(conversation: "LocalConversation") -> str | None:
    """Return the code of the error that ended the run, or None."""
    last = next(reversed(conversation.state.active_branch()), None)
    return getattr(last, "code", None) if type(last).__name__ == "ConversationErrorEvent" else None


def _last_message(conversation: "LocalConversation") -> str | None:
    """Return the text with which the agent ended its run without the tool `finish`, or None."""
    from openhands.sdk.event import MessageEvent

    last = next(reversed(conversation.state.active_branch()), None)
    return _text_of(last) if isinstance(last, MessageEvent) and last.source == "agent" else None


def _joined(source: object, *names: str) -> str:
    return ": ".join(str(getattr(source, name)) for name in names if getattr(source, name, None))


def _text_of(event: "Event") -> str:
    from openhands.sdk.event import MessageEvent
    from openhands.sdk.llm import content_to_str

    return "".join(content_to_str(event.llm_message.content)) if isinstance(event, MessageEvent) else ""

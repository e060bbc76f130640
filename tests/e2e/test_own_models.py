"""The real coding agent works with models of one's own, whose servers behave well, badly or not at all."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from muster.cli.demo.cases import BUGFIX, TEST_COMMAND
from muster.cli.demo.repositories import make_repository
from muster.common.bus.connection import open_bus
from muster.common.bus.message_store import MessageStore
from muster.common.contract import decode
from muster.common.contracts.model_calls import ModelFailed
from muster.common.contracts.sandbox_log import Frame, FrameKind, log_stream, log_subject, partition
from muster.common.contracts.tasks import TaskView
from muster.common.model_entries import FILE, Kind
from muster.embedded.private_files import write_private
from tests.support.fleet import ENDED, Fleet
from tests.support.model_server import (
    BUGFIX as STEPS,
)
from tests.support.model_server import (
    Behaviour,
    ContextOverflow,
    Empty,
    Garbage,
    Good,
    HalfAnswer,
    Hang,
    Length,
    ModelServer,
    Question,
    RateLimited,
    Runaway,
    ServerError,
    Shape,
    ToolCall,
)
from tests.support.whole_stack import WholeStack

pytestmark = [pytest.mark.timeout(240), pytest.mark.stress]

KINDS: dict[Shape, Kind] = {"openai": "openai", "vllm": "vllm", "anthropic": "anthropic", "ollama": "ollama"}
FINISH = ToolCall("finish", {"message": "I think that it works."})


@pytest.fixture
def entries(whole: WholeStack) -> Generator[Path]:
    """The file of the running stack's own models, which is removed after the test."""
    file = Path(whole.stack.ready.data_dir) / FILE
    yield file
    file.unlink(missing_ok=True)


async def run(
    whole: WholeStack,
    fleet: Fleet,
    entries: Path,
    server: ModelServer,
    *,
    entry: dict[str, Any] | None = None,
    **task: Any,
) -> TaskView:
    """Run the bug fix of the demo on the model of a server until the task ends."""
    table = {"kind": KINDS[server.shape], "model": "good", "base_url": server.api_base, **(entry or {})}
    if server.shape == "anthropic":
        table |= {"key_file": "own-key"}
        write_private(entries.parent / "own-key", b"a-key")
    entries.write_text(tomli_w.dumps({"models": {"own": table}}))
    repository = await make_repository(BUGFIX, whole.repositories / f"own-{server.api_base.rpartition(':')[2][:5]}")
    fields: dict[str, Any] = {"package": "openhands", "model": "own", "test_command": TEST_COMMAND, "timeout_s": 120.0}
    fields["repo"] = {"url": repository.as_uri()}
    submitted = await fleet.submit(BUGFIX.objective, **fields | task)
    return await fleet.until(submitted.task_id, lambda view: view.state in ENDED, wait_s=200)


async def failures(fleet: Fleet, task: TaskView) -> list[ModelFailed]:
    sandbox_id, stack = task.attempts[0].sandbox_id, fleet.stack
    async with open_bus(stack.nats_url, "test", credentials=stack.nats_credentials) as bus:
        stored = MessageStore(bus).replay(log_stream(partition(sandbox_id)), log_subject(sandbox_id))
        frames = [decode(one.body, Frame) async for one in stored]
    return [decode(bytes(frame.body), ModelFailed) for frame in frames if frame.kind is FrameKind.MODEL_FAILED]


@pytest.mark.parametrize("shape", sorted(KINDS))
async def test_the_same_task_completes_on_servers_of_each_shape(
    whole: WholeStack, fleet: Fleet, entries: Path, shape: Shape
) -> None:
    with ModelServer(shape) as server:
        task = await run(whole, fleet, entries, server)
    assert task.state == "completed", task
    assert task.diff
    assert [attempt.epoch for attempt in task.attempts] == [1]


@pytest.mark.parametrize(
    ("behaviour", "kind", "sentence"),
    [
        (ServerError("CUDA out of memory"), "server_error", "CUDA out of memory"),
        (RateLimited(1), "rate_limited", ""),
        (Garbage(), "unreadable", "cannot be read"),
        (HalfAnswer(), "unreachable", "ended during the answer"),
        (Empty(), "empty", "neither text nor a tool call"),
    ],
)
async def test_failed_calls_are_seen_with_the_next_try_and_the_task_completes_when_the_model_recovers(
    whole: WholeStack, fleet: Fleet, entries: Path, behaviour: Behaviour, kind: str, sentence: str
) -> None:
    with ModelServer("vllm", *[behaviour] * 4, Good()) as server:
        task = await run(whole, fleet, entries, server)
    told = await failures(fleet, task)
    # LiteLLM repeats a call once by itself if the connection ends, so two calls may fail instead of four.
    assert [(failed.kind, failed.tries) for failed in told] == [(kind, tries) for tries in range(1, len(told) + 1)]
    assert len(told) in (2, 4)
    assert all(sentence in failed.error and failed.retry_at for failed in told)
    assert task.state == "completed", task
    assert task.attempts[0].model_failure is None


async def test_failing_model_is_the_error_of_the_task_and_not_the_time_limit(
    whole: WholeStack, fleet: Fleet, entries: Path
) -> None:
    with ModelServer("vllm", ServerError("CUDA out of memory")) as server:
        task = await run(whole, fleet, entries, server, timeout_s=30.0)
    assert (task.state, task.limit, len(task.attempts)) == ("failed", "time", 1)
    assert task.error is not None
    assert task.error.startswith("the model own failed")
    assert "CUDA out of memory" in task.error


async def test_model_that_never_answers_is_named_in_the_error(whole: WholeStack, fleet: Fleet, entries: Path) -> None:
    with ModelServer("vllm", Hang()) as server:
        task = await run(whole, fleet, entries, server, timeout_s=30.0)
        server.release()
    assert (task.state, task.limit) == ("failed", "time")
    assert "for an answer of the model own" in str(task.error)


async def test_runaway_ends_at_its_limit_of_steps(whole: WholeStack, fleet: Fleet, entries: Path) -> None:
    with ModelServer("vllm", Runaway()) as server:
        task = await run(whole, fleet, entries, server, max_steps=6)
        asked = len(server.completions)
    assert (task.state, task.limit, asked) == ("failed", "steps", 6)
    assert task.error == (
        "the task's limit of 6 model calls is reached; `muster task submit --max-steps` sets a higher limit"
    )


async def test_question_is_answered_once_and_is_then_no_success(whole: WholeStack, fleet: Fleet, entries: Path) -> None:
    with ModelServer("vllm", Question()) as server:
        task = await run(whole, fleet, entries, server)
        asked = len(server.completions)
    assert (task.state, len(task.attempts)) == ("failed", 1)
    assert "asked a question" in str(task.error)
    assert asked >= 2


async def test_cut_answers_are_requested_with_a_higher_limit(whole: WholeStack, fleet: Fleet, entries: Path) -> None:
    with ModelServer("anthropic", Length()) as server:
        task = await run(whole, fleet, entries, server)
    assert task.state == "completed", task
    assert {failed.kind for failed in await failures(fleet, task)} == {"truncated"}


async def test_answers_that_are_always_cut_end_the_run_with_the_cure(
    whole: WholeStack, fleet: Fleet, entries: Path
) -> None:
    with ModelServer("vllm", Length()) as server:
        task = await run(whole, fleet, entries, server, max_output_tokens=1_000, max_steps=20)
        asked = len(server.completions)
    assert task.state == "failed"
    assert "--max-output-tokens" in str(task.error)
    assert asked <= 9, "three calls in each of three attempts"


async def test_prompt_that_is_longer_than_the_context_window_is_told_at_once(
    whole: WholeStack, fleet: Fleet, entries: Path
) -> None:
    with ModelServer("vllm", ContextOverflow(100)) as server:
        task = await run(whole, fleet, entries, server)
    assert (task.state, len(task.attempts)) == ("failed", 1)
    assert "context" in str(task.error)


async def test_second_attempt_is_told_the_test_command_and_the_end_of_the_failed_test(
    whole: WholeStack, fleet: Fleet, entries: Path
) -> None:
    spoil = ToolCall("terminal", {"command": "cd {workspace} && touch notes.txt"}, "I make a note.")
    with ModelServer("vllm", Good([spoil, FINISH]), Good([spoil, FINISH]), Good(STEPS)) as server:
        task = await run(whole, fleet, entries, server)
        prompts = [str(request.body["messages"][1]) for request in server.completions]
    assert task.state == "completed", task
    assert len(task.attempts) == 2
    assert TEST_COMMAND in prompts[0]
    assert "AssertionError" not in prompts[0]
    assert "AssertionError" in prompts[-1]
    assert "notes.txt" in prompts[-1]
    assert "I think that it works." in prompts[-1]

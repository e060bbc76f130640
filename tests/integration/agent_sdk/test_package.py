"""A package that `muster agent new` creates passes its own tests and runs in both modes."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from muster.agent.scaffold import write
from muster.common.bus.connection import open_bus
from muster.common.clock import utc_now
from muster.common.contract import decode
from muster.common.contracts.sandbox_log import Finished, Frame, FrameKind
from muster.common.contracts.worker_api import InboxMessage
from muster.common.faults import InvalidMessage
from tests.support.doors_double import Doors, handoff_for, launch
from tests.support.gateway import Stack, process
from tests.support.resident import resident


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return write("parrot", tmp_path / "packages")


def test_new_package_passes_its_own_tests(package: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"],
        cwd=package,
        # The author of the package does not have this environment.
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 passed" in ran.stdout


async def test_new_package_answers_messages_in_process_mode(package: Path, nats_url: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    async with (
        open_bus(nats_url, "test") as bus,
        resident(bus, nats_url, home, module="parrot", path=package.parent, config={"greeting": "Oh"}) as parrot,
    ):
        await parrot.beating()
        answer = await parrot.order("message", message_id="msg_1", text="hi")
        assert answer.result == {"message_id": "msg_1", "state": "answered", "answer": "Oh: hi"}


async def test_new_package_receives_the_objective_in_a_sandbox_and_its_answer_ends_the_task(
    package: Path, tmp_path: Path
) -> None:
    doors = Doors()
    handoff = handoff_for(doors, doors.start(), tmp_path, package="parrot", metadata={"config": {"greeting": "Oh"}})
    worker = launch("parrot", handoff, tmp_path, module="parrot", path=package.parent)
    try:
        assert await asyncio.to_thread(worker.wait, 60) == 0, (tmp_path / "worker.log").read_text()
    finally:
        worker.kill()
        worker.wait()
        doors.stop()
    assert [event.kind for event in doors.events] == ["MessageEvent", "AgentEvent", "MessageEvent"]
    assert doors.bodies()[1]["name"] == "answered"
    assert doors.events[2].parent_id == doors.events[1].event_id
    assert (doors.finished[0].outcome, doors.finished[0].summary) == ("success", "Oh: Make it work.")


SLOW = """
    async def on_message(self, message: AgentMessage) -> str:
        if message.sender == "task":
            import asyncio
            self.told = asyncio.Event()
            await self.told.wait()
            return "done"
        self.told.set()
        return f"heard {message.text}"
"""


async def test_steering_message_is_delivered_during_the_work_on_the_objective(package: Path, tmp_path: Path) -> None:
    code = (package / "agent.py").read_text()
    (package / "agent.py").write_text(code[: code.index("    async def on_message")] + SLOW.lstrip("\n"))
    doors = Doors()
    worker = launch(
        "parrot", handoff_for(doors, doors.start(), tmp_path), tmp_path, module="parrot", path=package.parent
    )
    try:
        await asyncio.to_thread(doors.until, lambda: doors.events)
        doors.offer(
            InboxMessage(
                message_id="msg_a",
                epoch=1,
                kind="steer",
                urgent=False,
                text="enough",
                sender="guardian",
                expires_at=utc_now().replace(year=2999),
                position=1,
            )
        )
        assert await asyncio.to_thread(worker.wait, 60) == 0, (tmp_path / "worker.log").read_text()
    finally:
        worker.kill()
        worker.wait()
        doors.stop()
    said = [body["llm_message"]["content"][0]["text"] for body in doors.bodies()]
    assert said[:2] == ["Make it work.", "[muster:msg_a]\nenough"]
    assert sorted(said[2:]) == ["done", "heard enough"]
    assert doors.finished[0].summary == "done"


def finished(frames: list[Frame]) -> bool:
    return any(frame.kind is FrameKind.FINISHED for frame in frames)


async def test_gateway_starts_a_package_from_the_users_folder_in_a_sandbox(
    package: Path, nats_url: str, tmp_path: Path
) -> None:
    shim = ("muster.shim", "--socket", str(tmp_path / "shim.sock"), "--state", str(tmp_path / "shim"))
    async with open_bus(nats_url, "test") as bus, process(*shim, env={}):
        stack = Stack(tmp_path, nats_url, bus)
        stack.env["MUSTER_PACKAGES_DIRS"] = str(package.parent)
        async with stack.pool:
            await stack.start()
            try:
                told = await stack.create(package="parrot", objective="Speak.")
                frames = await stack.until(told.sandbox_id, finished, 60)
                account = next(frame.body for frame in frames if frame.kind is FrameKind.FINISHED)
                assert decode(bytes(account), Finished).summary == "You said: Speak."
                with pytest.raises(InvalidMessage, match="not installed"):
                    await stack.create(package="cockatoo")
            finally:
                await stack.end()

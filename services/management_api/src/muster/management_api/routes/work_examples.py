"""Examples of tasks, agents, sandboxes and what is said of them, as the real types: none can be wrong."""

from datetime import UTC, datetime

import msgspec

from muster.common.contracts.agent_health import AgentMetricsView, AgentStatusView
from muster.common.contracts.agent_logs import AgentLogPage, LogLine
from muster.common.contracts.agent_messages import Handed
from muster.common.contracts.agent_registry import (
    AgentPage,
    CapabilityList,
    CapabilityView,
    Choice,
    Considered,
    Deleted,
)
from muster.common.contracts.agents import AgentChanged, AgentView
from muster.common.contracts.feed import AgentFeedPage
from muster.common.contracts.gateway import Repo, SandboxPage, SandboxView, Verdict
from muster.common.contracts.guardian import FindingView, GuardianReport, InterventionView, Receipt
from muster.common.contracts.health import Health, PartHealth
from muster.common.contracts.packages import Capability, Manifest, PackageList, PackageView
from muster.common.contracts.tasks import AttemptView, TaskPage, TaskView
from muster.management_api.domain.requests import (
    AgentChange,
    AgentMessage,
    Cancellation,
    NewAgent,
    NewMessage,
    NewTask,
    Wanted,
)

_ULID = "01kagz5v3m8n6q2r4t7w9x0y1z"
_TASK, _AGENT, _SANDBOX, _MESSAGE = f"tsk_{_ULID}", f"agt_{_ULID}", f"sbx_{_ULID}", f"msg_{_ULID}"
_AT = datetime(2026, 11, 21, 9, 30, 0, 123456, tzinfo=UTC)
_CURSOR = "MjAyNi0xMS0yMVQwOTozMDowMC4xMjM0NTZa"

_task = TaskView(
    task_id=_TASK,
    agent_id=_AGENT,
    package="openhands",
    model="openai/gpt-5-mini",
    objective="Make the failing test of the parser pass.",
    repo=Repo(url="https://git.example.org/parser.git", ref="main"),
    test_command="make test",
    priority="NORMAL",
    project="default",
    labels={"team": "core"},
    timeout_s=300.0,
    state="running",
    version=3,
    created_at=_AT,
    updated_at=_AT,
    attempts=[AttemptView(attempt_id=f"att_{_ULID}", epoch=1, sandbox_id=_SANDBOX, state="running", created_at=_AT)],
)
_agent = AgentView(
    agent_id=_AGENT,
    name="echo-1",
    package="echo",
    agent_type="echo",
    agent_version="0.1.0",
    mode="process",
    capabilities=["echo"],
    config={},
    labels={"team": "core"},
    is_default=False,
    desired="running",
    state="idle",
    state_since=_AT,
    cites="beat#12",
    reason=None,
    exit_code=None,
    launch=1,
    restarts=0,
    pid=4321,
    owner="agent_manager-1",
    last_seen=_AT,
    live_tasks=0,
    version=3,
    created_at=_AT,
    updated_at=_AT,
)
_sandbox = SandboxView(
    sandbox_id=_SANDBOX,
    task_id=_TASK,
    agent_id=_AGENT,
    epoch=1,
    state="running",
    provider="local",
    isolation="bubblewrap",
    package="openhands",
    model="openai/gpt-5-mini",
    created_at=_AT,
    pid=4322,
    next_seq=42,
)
_steered = InterventionView(
    message_id=_MESSAGE,
    task_id=_TASK,
    sandbox_id=_SANDBOX,
    epoch=1,
    finding_id=None,
    text="The test is in tests/test_parser.py.",
    sender="user:admin",
    stage="stored",
    outcome=None,
    receipts=[Receipt(stage="stored", at=_AT, cites="INBOX#7")],
)
_echo = Capability(name="echo", description="Says back what it is told.", config={"type": "object"})
_changed = AgentChanged(
    agent_id=_AGENT,
    kind="started",
    event_id=f"evt_{_ULID}",
    version=3,
    at=_AT,
    state="running",
    desired="running",
)

EXAMPLES: tuple[msgspec.Struct, ...] = (
    _task,
    TaskPage(tasks=[_task], next_cursor=_CURSOR),
    _agent,
    AgentPage(agents=[_agent], next_cursor=_CURSOR),
    Deleted(agent_id=_AGENT),
    AgentStatusView(
        agent_id=_AGENT,
        state="idle",
        desired="running",
        state_since=_AT,
        cites="beat#12",
        last_seen=_AT,
        pid=4321,
        exit_code=None,
        reason=None,
        health={"status": "healthy"},
        asked="answered",
    ),
    AgentMetricsView(agent_id=_AGENT, at=_AT, metrics={"messages": 5.0}, counted={"restarts": 0.0, "uptime_s": 61.5}),
    AgentLogPage(
        agent_id=_AGENT, lines=[LogLine(position=7, n=1, launch=1, at=_AT, text="ready")], next_cursor=_CURSOR
    ),
    AgentFeedPage(agent_id=_AGENT, events=[_changed], next_cursor=_CURSOR),
    CapabilityList(capabilities=[CapabilityView(capability=_echo, packages=["echo"], agents=1)]),
    Choice(
        agent=_agent,
        considered=[
            Considered(agent_id=_AGENT, name="echo-1", chosen=True, why="idle, and has every capability"),
            Considered(agent_id="agt_other", name="echo-2", chosen=False, why="stopped: start it"),
        ],
    ),
    Handed(agent_id=_AGENT, message_id=_MESSAGE, agent={"said": "hello"}),
    PackageList(
        packages=[
            PackageView(
                name="echo",
                folder="agents/echo",
                usable=True,
                manifest=Manifest(
                    name="echo", type="echo", version="0.1.0", module="muster.agents.echo", capabilities=[_echo]
                ),
                digest="9f2c",
            ),
            PackageView(name="broken", folder="agents/broken", usable=False, reason="agent.toml: `module` is missing"),
        ]
    ),
    _sandbox,
    SandboxPage(sandboxes=[_sandbox]),
    Verdict(sandbox_id=_SANDBOX, ok=True, frames=12, events=41, epoch=1, ended="closed"),
    _steered,
    GuardianReport(
        task_id=_TASK,
        findings=[
            FindingView(
                finding_id=f"fnd_{_ULID}",
                detector="repetition",
                task_id=_TASK,
                sandbox_id=_SANDBOX,
                epoch=1,
                at=_AT,
                seqs=[3, 5, 7, 9],
                summary="the same command four times",
            )
        ],
        interventions=[_steered],
    ),
    Health(status="ok", version="0.1.0", parts={"nats": PartHealth(status="ok")}),
    NewTask(objective="Say hello.", package="echo", labels={"team": "core"}),
    NewMessage(text="The test is in tests/test_parser.py."),
    Cancellation(reason="not needed any more"),
    NewAgent(name="echo-1", package="echo", labels={"team": "core"}),
    AgentChange(labels={"team": "platform"}),
    Wanted(capabilities=["echo"], available=True),
    AgentMessage(text="hello"),
)

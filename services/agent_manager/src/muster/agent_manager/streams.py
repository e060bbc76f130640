"""The JetStream streams that the agent manager creates: events of tasks, events of agents, and output of agents."""

from muster.common.bus.streams import StreamSpec

TASKS = StreamSpec(name="TASKS", subjects=["task.*.event.*"], compress=True)
AGENTS = StreamSpec(name="AGENTS", subjects=["agent.*.event.*"], max_bytes=1 << 30, compress=True)
AGENT_LOGS = StreamSpec(
    name="AGENT_LOGS", subjects=["agent.*.log"], max_bytes=1 << 30, max_age_s=7 * 86_400.0, compress=True
)
STREAMS = (TASKS, AGENTS, AGENT_LOGS)

"""Which tests run on one worker of pytest-xdist, one after the other, because they share something that is costly to start.

By module: xdist's own `xdist_group` renames tests while they are collected, which pytest 9.2 no longer lets it do.
"""

from xdist.scheduler import LoadScopeScheduling  # pyright: ignore[reportMissingTypeStubs]

WHOLE = "whole stack"
_SHARING = {
    "tests/e2e/": WHOLE,
    "tests/chaos/test_kill_matrix.py": WHOLE,
    "tests/integration/management_api/agents/test_agents_whole.py": WHOLE,
    "tests/chaos/test_agent_fleet.py": "fleet of agents",
    "tests/integration/agent_manager/tasks/test_many_tasks.py": "seeded tasks",
}


def one_worker(nodeid: str) -> str:
    """Return what a test shares, or its own name where it shares nothing."""
    return next((shared for place, shared in _SHARING.items() if nodeid.startswith(place)), nodeid)


class OnOneWorker(LoadScopeScheduling):
    """Hands out tests one by one, and those that share something to one worker; those first, as they take longest."""

    def _split_scope(self, nodeid: str) -> str:
        return one_worker(nodeid)

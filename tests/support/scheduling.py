"""Runs tests that share an expensive fixture on one worker of pytest-xdist, one after the other.

The tests are chosen by their module. The marker `xdist_group` of xdist cannot be used, because it renames tests during
the collection, which pytest 9.2 forbids.
"""

from xdist.scheduler import LoadScopeScheduling  # pyright: ignore[reportMissingTypeStubs]

WHOLE = "whole stack"
_SHARING = {
    "tests/e2e/": WHOLE,
    "tests/chaos/test_kill_matrix.py": WHOLE,
    "tests/integration/management_api/agents/test_agents_whole.py": WHOLE,
    "tests/conformance/": "daytona",
    "tests/integration/daytona_double/": "daytona",
    "tests/integration/sandbox_gateway/daytona/": "daytona",
    "tests/chaos/test_agent_fleet.py": "fleet of agents",
    "tests/integration/agent_manager/tasks/test_many_tasks.py": "seeded tasks",
    "tests/integration/management_api/http/test_rate_limits.py": "API with rate limits",
    "tests/integration/management_api/feeds/test_bounds.py": "API with few feeds",
    "tests/integration/management_api/feeds/test_end.py": "two APIs",
    "tests/integration/management_api/access/test_oidc.py": "API with an identity provider",
    "tests/integration/management_api/access/test_provided_users.py": "API with users of a provider",
    "tests/integration/sandbox_gateway/models/": "LiteLLM",
    "tests/integration/support/model_server/": "LiteLLM",
    "tests/integration/shim/test_isolation.py": "shim",
    "tests/integration/shim/test_forked_isolation.py": "shim",
    "tests/integration/shim/test_fork_servers.py": "shim",
    "tests/contract/test_walls.py": "ruff",
}


def one_worker(nodeid: str) -> str:
    """Return the name of the fixture that a test shares, or the test's id if it shares none."""
    return next((shared for place, shared in _SHARING.items() if nodeid.startswith(place)), nodeid)


class OnOneWorker(LoadScopeScheduling):
    """Distributes single tests to workers, but tests that share a fixture to one worker, and these first."""

    def _split_scope(self, nodeid: str) -> str:
        return one_worker(nodeid)

"""The routers of all features of the API, in the order of the OpenAPI document. A new feature adds its router here."""

from muster.management_api.access.routes import keys, users, whoami
from muster.management_api.agents.routes import agents, packages
from muster.management_api.agents.routes import events as agent_events
from muster.management_api.agents.routes import status as agent_status
from muster.management_api.audit import routes as audit
from muster.management_api.health.routes import health, metrics
from muster.management_api.sandboxes import routes as sandboxes
from muster.management_api.tasks.routes import events as task_events
from muster.management_api.tasks.routes import payloads as task_payloads
from muster.management_api.tasks.routes import tasks

ROUTERS = tuple(
    feature.router
    for feature in (
        tasks,
        agents,
        task_events,
        task_payloads,
        agent_events,
        agent_status,
        sandboxes,
        packages,
        keys,
        users,
        audit,
        whoami,
        metrics,
    )
)
OPEN_ROUTERS = (health.router,)
"""Routers whose routes need no credentials."""

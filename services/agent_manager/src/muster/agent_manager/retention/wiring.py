"""Wiring of the feature `retention`: makes the loop that deletes old rows."""

from collections.abc import Iterable

from muster.agent_manager.database.engine import ManagerDatabase
from muster.agent_manager.loops import Loop
from muster.agent_manager.retention.reconcilers import Retention
from muster.agent_manager.settings import ManagerSettings


def loops(database: ManagerDatabase, settings: ManagerSettings) -> Iterable[Loop]:
    """Return the loop that deletes old rows."""
    yield "retention", Retention(database, settings).run

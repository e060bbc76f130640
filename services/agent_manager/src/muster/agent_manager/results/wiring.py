"""What the feature `results` adds to the service: the loop that validates results."""

from collections.abc import Iterable

from muster.agent_manager.database.engine import Database
from muster.agent_manager.database.notices import Notices
from muster.agent_manager.loops import Loop, woken_by
from muster.agent_manager.results.reconcilers import Validation
from muster.agent_manager.settings import Settings
from muster.agent_manager.tasks.adapters.sandbox_gateway import Gateway
from muster.common.bus.connection import Bus


def loops(bus: Bus, database: Database, settings: Settings, notices: Notices) -> Iterable[Loop]:
    """Return the loop that validates results."""
    validation = Validation(database, Gateway(bus), settings, now=bus.now)
    yield woken_by(notices, settings)("validation", validation, str)

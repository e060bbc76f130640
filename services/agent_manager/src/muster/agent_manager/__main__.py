"""`python -m muster.agent_manager` serves; `… migrate [--down | --to REVISION]` brings its schema along."""

import sys

from muster.agent_manager import service
from muster.agent_manager.settings import ManagerMigration, ManagerSettings
from muster.common.running import read_settings, run_service

if arguments := sys.argv[1:]:
    database = read_settings(ManagerMigration)
    run_service("agent_manager", database, lambda: service.bring_along(arguments, database))
else:
    settings = read_settings(ManagerSettings)
    run_service("agent_manager", settings, lambda: service.run(settings))

"""Starts the agent manager, or with `migrate [--down | --to REVISION]` migrates its database schema."""

import sys

from muster.agent_manager import service
from muster.agent_manager.settings import ManagerMigration, ManagerSettings
from muster.common.service_process import read_settings, run_service

if arguments := sys.argv[1:]:
    database = read_settings(ManagerMigration)
    run_service("agent_manager", database, lambda: service.migrate(arguments, database))
else:
    settings = read_settings(ManagerSettings)
    run_service("agent_manager", settings, lambda: service.run(settings))

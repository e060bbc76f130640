"""Runs the management API with `python -m muster.management_api`.

`python -m muster.management_api migrate [--down | --to REVISION]` migrates its database schema.
"""

import sys

from muster.common.service_process import read_settings, run_service
from muster.management_api import service
from muster.management_api.settings import ApiMigration, ApiSettings

if arguments := sys.argv[1:]:
    database = read_settings(ApiMigration)
    run_service("management_api", database, lambda: service.migrate(arguments, database))
else:
    settings = read_settings(ApiSettings)
    run_service("management_api", settings, lambda: service.run(settings))

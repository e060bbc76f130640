"""`python -m muster.management_api` serves; `… migrate [--down | --to REVISION]` brings its schema along."""

import sys

from muster.common.running import read_settings, run_service
from muster.management_api import service
from muster.management_api.settings import ApiMigration, ApiSettings

if arguments := sys.argv[1:]:
    database = read_settings(ApiMigration)
    run_service("management_api", database, lambda: service.bring_along(arguments, database))
else:
    settings = read_settings(ApiSettings)
    run_service("management_api", settings, lambda: service.run(settings))

"""Starts the guardian: `python -m muster.guardian`."""

from muster.common.service_process import read_settings, run_service
from muster.guardian import service
from muster.guardian.settings import GuardianSettings

if __name__ == "__main__":
    settings = read_settings(GuardianSettings)
    run_service(service.NAME, settings, lambda: service.run(settings))

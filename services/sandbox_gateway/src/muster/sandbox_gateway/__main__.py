"""Runs the sandbox gateway: `python -m muster.sandbox_gateway`.

With `test-model` it tests one model and ends, and with `test-daytona` it tries Daytona and ends.
"""

import sys

from muster.common.process_hardening import hide_from_other_processes

# This call comes before the other imports, which take a second. The environment of this process contains the API keys
# of model providers, and after this call other processes cannot read it.
hide_from_other_processes()

from muster.common.service_process import read_settings, run_service  # noqa: E402
from muster.sandbox_gateway.settings import GatewaySettings, ModelFileSettings  # noqa: E402

if __name__ == "__main__" and sys.argv[1:] == ["test-model"]:
    from muster.sandbox_gateway.models.wiring import run_trial_calls

    run_trial_calls(read_settings(ModelFileSettings))
elif __name__ == "__main__" and sys.argv[1:] == ["test-daytona"]:
    from muster.sandbox_gateway.providers.daytona.trial import run_trial

    run_trial(read_settings(ModelFileSettings))
elif __name__ == "__main__":
    from muster.sandbox_gateway import service

    settings = read_settings(GatewaySettings)  # pyright: ignore[reportArgumentType]
    run_service(service.NAME, settings, lambda: service.run(settings))

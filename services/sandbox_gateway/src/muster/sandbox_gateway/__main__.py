"""Runs the sandbox gateway: `python -m muster.sandbox_gateway`."""

from muster.common.secrecy import hide_from_other_processes

# Before the other imports, which take a second: the environment holds the API keys of model providers.
hide_from_other_processes()

from muster.common.running import read_settings, run_service  # noqa: E402
from muster.sandbox_gateway import service  # noqa: E402
from muster.sandbox_gateway.settings import GatewaySettings  # noqa: E402

if __name__ == "__main__":
    settings = read_settings(GatewaySettings)  # pyright: ignore[reportArgumentType]
    run_service(service.NAME, settings, lambda: service.run(settings))

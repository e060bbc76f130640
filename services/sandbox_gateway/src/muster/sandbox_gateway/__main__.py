"""`python -m muster.sandbox_gateway`."""

from muster.common.running import read_settings, run_service
from muster.sandbox_gateway import service
from muster.sandbox_gateway.settings import Settings

if __name__ == "__main__":
    settings = read_settings(Settings)  # pyright: ignore[reportArgumentType]
    run_service(service.NAME, settings, lambda: service.run(settings))

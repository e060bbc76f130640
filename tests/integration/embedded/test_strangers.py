"""A start of PostgreSQL ends the remaining processes of a killed server, and no other process."""

import subprocess
from pathlib import Path

from muster.embedded.postgres import Postgres
from tests.support.servers import Restartable


async def test_unrelated_process_in_the_clusters_directory_survives_a_start_of_postgres(
    postgres_server: Restartable,
) -> None:
    server = postgres_server.server
    assert isinstance(server, Postgres)
    cluster = server.running.command.argv[server.running.command.argv.index("-D") + 1]
    await postgres_server.kill()
    with subprocess.Popen(["sleep", "1000"], cwd=Path(cluster)) as stranger:
        try:
            await postgres_server.start()
            assert stranger.poll() is None
        finally:
            stranger.kill()

"""The archive of a data directory that upgrade tests use."""

import os
from pathlib import Path

from tests.fixtures.releases.make import REGENERATED, pack, unpack


def test_archive_of_a_directory_is_deterministic_and_omits_runtime_files(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("postgres/cluster", "logs", "run"):
        (data / name).mkdir(parents=True)
    for name in ("secrets.json", "postgres/cluster/PG_VERSION", "logs/nats.log", "run/socket", "ready.json", "lock"):
        (data / name).write_text(name)
    (data / "secrets.json").chmod(0o600)
    pack(data, tmp_path / "one.tar.xz")
    os.utime(data / "secrets.json", (1, 1))
    pack(data, tmp_path / "two.tar.xz")
    assert (tmp_path / "one.tar.xz").read_bytes() == (tmp_path / "two.tar.xz").read_bytes()

    unpack(tmp_path / "one.tar.xz", tmp_path / "again")
    again = {str(path.relative_to(tmp_path / "again")) for path in (tmp_path / "again").rglob("*")}
    assert again == {"secrets.json", "postgres", "postgres/cluster", "postgres/cluster/PG_VERSION"}
    assert not again & REGENERATED
    assert (tmp_path / "again" / "secrets.json").read_text() == "secrets.json"
    assert (tmp_path / "again" / "secrets.json").stat().st_mode & 0o777 == 0o600

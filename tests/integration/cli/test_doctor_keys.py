"""`muster doctor` names the model keys of a running stack, although no process can read the gateway's environment."""

import json
import os
from pathlib import Path

from click.testing import CliRunner

from muster.cli.app import muster
from muster.embedded.ready import Ready
from muster.embedded.stack_directory import locked


def test_doctor_names_the_keys_that_the_running_gateway_was_given(tmp_path: Path) -> None:
    Ready(
        api_url="http://api",
        gateway_url="http://gateway",
        nats_url="nats://",
        database_url="postgresql://",
        admin_key="key",
        pids={},
        pid=os.getpid(),
        data_dir=str(tmp_path),
        version="1",
        model_keys=["CEREBRAS_API_KEY", "OPENAI_BASE_URL"],
    ).write(tmp_path / "ready.json")
    with locked(tmp_path):
        told = CliRunner().invoke(muster, ["doctor", "--data", str(tmp_path), "-o", "json"])
    row = next(row for row in json.loads(told.stdout) if row["check"] == "model keys")
    assert row["found"] == "the running gateway has cerebras (CEREBRAS_API_KEY)"

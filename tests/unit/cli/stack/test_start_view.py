"""The progress of a start: rows on a terminal, lines elsewhere, a pipe for a detached start, and the last summary."""

import os
from io import StringIO

import msgspec
import pytest
from rich.console import Console

from muster.cli.commands.stack.announcement import announcement, without_login
from muster.cli.commands.stack.start_view import StartLines, StartPipe, StartScreen, read_start_pipe
from muster.embedded.ready import Ready
from muster.embedded.start_progress import PartProgress

STARTING = PartProgress(part="nats", state="starting")
READY = PartProgress(part="nats", state="ready", seconds=0.42)
MIGRATED = PartProgress(part="agent_manager", state="migrated", seconds=1.2)
FAILED = PartProgress(part="agent_manager", state="failed", seconds=2.0)
DIED = PartProgress(part="nats", state="died")
STOPPED = PartProgress(part="agent_manager", state="stopped", seconds=0.1)


def rows(screen: StartScreen) -> list[str]:
    console = Console(file=StringIO(), width=80)
    with console.capture() as shown:
        console.print(screen._rows())  # pyright: ignore[reportPrivateUsage]
    return [" ".join(line.split()) for line in shown.get().splitlines()]


def test_terminal_shows_one_row_for_each_part_with_its_state_and_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    screen = StartScreen()
    for progress in (STARTING, MIGRATED, READY):
        screen.show(progress)
    assert rows(screen)[0] == "✓ nats 0.4 s"
    assert rows(screen)[1].endswith("agent_manager schema 1.2 s")
    for progress in (FAILED, STOPPED):
        screen.show(progress)
    assert rows(screen)[1] == "✗ agent_manager 2.0 s schema 1.2 s", "a failed part stays failed when it is stopped"

    screen.__exit__(None, None, None)
    screen.show(DIED)
    assert "muster logs nats" in capsys.readouterr().err


def test_without_a_terminal_each_change_is_at_most_one_plain_line(capsys: pytest.CaptureFixture[str]) -> None:
    lines = StartLines()
    for progress in (STARTING, READY, MIGRATED, FAILED, STOPPED):
        lines.show(progress)
    assert [line.split()[:2] for line in capsys.readouterr().err.splitlines()] == [
        ["nats", "ready"],
        ["agent_manager", "database"],
        ["agent_manager", "failed"],
    ]


def test_detached_start_passes_each_change_on_and_ignores_a_reader_that_has_gone() -> None:
    reading, writing = os.pipe()
    told: list[PartProgress] = []
    with StartPipe(writing) as pipe:
        for progress in (STARTING, READY):
            pipe.show(progress)
    pipe.show(DIED)  # The start is over.
    read_start_pipe(reading, told.append)
    assert told == [STARTING, READY]

    reading, writing = os.pipe()
    os.close(reading)
    with StartPipe(writing) as pipe:
        pipe.show(READY)
        pipe.show(READY)


def test_summary_names_addresses_models_and_next_commands_and_no_secret() -> None:
    ready = Ready(
        api_url="http://127.0.0.1:8700",
        gateway_url="http://127.0.0.1:8710",
        nats_url="nats://user:secret-a@127.0.0.1:4222",
        database_url="postgresql://muster:secret-b@127.0.0.1:5433/muster?password=secret-c",
        admin_key="secret-d",
        pids={},
        model_keys=["OPENAI_API_KEY", "SSL_CERT_FILE", "https_proxy"],
        isolation="bubblewrap",
        pid=1,
        data_dir="/data/with space",
        version="1",
    )
    text = "\n".join(announcement(ready, detached=True))
    assert "secret" not in text
    for part in ("http://127.0.0.1:8700/docs", "nats://127.0.0.1:4222", "127.0.0.1:5433/muster", "bubblewrap"):
        assert part in text
    assert ["models", "OPENAI_API_KEY"] in [line.split() for line in text.splitlines()]
    assert "export MUSTER_DATA_DIR='/data/with space'\n" in text
    assert "Ctrl-C" not in text
    assert "Ctrl-C" in "\n".join(announcement(ready, detached=False))
    without_models = list(announcement(msgspec.structs.replace(ready, model_keys=[]), detached=True))
    assert max(map(len, without_models)) <= 80, "a terminal of 80 columns breaks no line"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://a:b@one:1,two:2/db", "postgresql://one:1,two:2/db"),
        ("host=/run user=x password=y", "set"),
        ("nats://token@127.0.0.1:4222", "nats://127.0.0.1:4222"),
    ],
)
def test_address_of_a_server_is_shown_without_its_login(url: str, shown: str) -> None:
    assert without_login(url) == shown

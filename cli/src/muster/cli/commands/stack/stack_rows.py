"""Reads the state of each process of a running stack: pid, start, memory, restarts and port."""

from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from muster.cli.commands.stack.process_figures import memory_mb, started_at
from muster.cli.commands.stack.selected_stack import running_stack
from muster.cli.console.output import Row, TableLayout, duration
from muster.common.clock import utc_now
from muster.embedded.ready import Ready


def _with_uptime(row: Row) -> Row:
    began = row["started_at"]
    return {**row, "uptime": duration(datetime.fromisoformat(began), utc_now()) if began else None}


PROCESSES = TableLayout(
    columns=("name", "state", "pid", "uptime", "memory_mb", "restarts", "port"),
    dropped_first=("memory_mb", "restarts"),
    cells=_with_uptime,
)
"""The table of `muster ps` and `muster status`. JSON has `started_at` instead of the uptime, which always changes."""


def stack_rows(data_dir: Path) -> tuple[Ready, list[Row]]:
    """Return the stack's ready file and one row for each process; end the command if no stack runs."""
    ready = running_stack(data_dir)
    ports = {
        "management_api": _port(ready.api_url),
        "sandbox_gateway": _port(ready.gateway_url),
        "nats": _port(ready.nats_url),
        "postgres": _port(ready.database_url),
    }
    processes = {"up": ready.pid, **ready.pids}
    return ready, [_row(name, pid, ready, ports.get(name)) for name, pid in processes.items()]


def _row(name: str, pid: int, ready: Ready, port: int | None) -> Row:
    memory, began = memory_mb(pid, with_children=name == "postgres"), started_at(pid)
    return {
        "name": name,
        "state": "dead" if memory is None else "running",
        "pid": pid,
        "started_at": began.isoformat() if began and memory is not None else None,
        "memory_mb": memory,
        "restarts": ready.restarts.get(name, 0),
        "port": port,
    }


def _port(url: str) -> int | None:
    try:
        return urlsplit(url).port
    except ValueError:  # The address of an existing server may be a list of hosts.
        return None

"""Asks the running gateway for sandboxes without a record, which only an operator may delete."""

from collections.abc import Iterator
from pathlib import Path

from muster.cli.client.target import read_ready_file
from muster.cli.commands.check_result import CheckResult
from muster.embedded.stack_directory import holder

_ANSWER_S = 3.0
_SHOWN = 5


def left_sandboxes_check(data_dir: Path) -> Iterator[CheckResult]:
    """Warn of the sandboxes that the gateway of the running stack has left. Without a running stack, check nothing."""
    if holder(data_dir) is not None and (ready := read_ready_file(data_dir / "ready.json")) is not None:
        yield from left_at(ready.gateway_url)


def left_at(gateway_url: str) -> Iterator[CheckResult]:
    """Warn of the sandboxes that a gateway has left. A gateway that does not answer is the subject of other checks."""
    import http.client
    import urllib.request

    import msgspec

    class LeftSandboxes(msgspec.Struct):
        left_sandboxes: list[str] = []

    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{gateway_url}/health", timeout=_ANSWER_S) as answer:
            left = msgspec.json.decode(answer.read(1 << 20), type=LeftSandboxes).left_sandboxes
    except (OSError, ValueError, http.client.HTTPException, msgspec.MsgspecError):
        return
    if left:
        more = f" and {len(left) - _SHOWN} more" if len(left) > _SHOWN else ""
        remedy = (
            "Their records may be lost. Make sure that nothing needs them, and delete them at the provider "
            "(docs/operations.md, What is removed when)."
        )
        yield CheckResult("sandboxes", "warn", f"without a record: {', '.join(left[:_SHOWN])}{more}", remedy)

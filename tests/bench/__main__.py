"""`make bench` measures Muster and a minimal program on the same machine in the same run.

The results are ratios, not rates.

`python -m tests.bench reads crash` runs only these parts. All parts are `starts agents ingest polls reads crash registry`, in this
order.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from muster.common.bus.connection import open_bus
from muster.common.clock import utc_now
from tests.bench import agents, crash, ingest, polls, reads, registry, starts
from tests.bench.ratios import row, say
from tests.support.stack import running_stack


async def main(chosen: set[str]) -> None:
    """Print the whole report, or the requested parts."""
    say(f"{os.cpu_count()} cores; load {os.getloadavg()[0]:.1f}; {utc_now():%Y-%m-%d %H:%M} UTC")

    def wanted(name: str) -> bool:
        return not chosen or name in chosen

    if not chosen or chosen & {"starts", "agents", "crash", "reads", "registry"}:
        say("starts")
        row("", "measured", "bare", "ratio")
    if wanted("starts"):
        starts.report()
    if wanted("agents"):
        await agents.report()
    if wanted("ingest"):
        await ingest.report()
        say()
    if wanted("polls"):
        await polls.report()
        say()
    if chosen and chosen <= {"agents", "ingest", "polls"}:
        return
    with tempfile.TemporaryDirectory(prefix="muster-bench-") as place:
        home, packages = Path(place), Path(place) / "packages"
        crash.prepare(packages)
        began = time.perf_counter()
        async with (
            running_stack(home, env={**reads.ENV, "MUSTER_PACKAGES_DIRS": str(packages)}) as stack,
            open_bus(stack.nats_url, "bench", credentials=stack.nats_credentials) as bus,
        ):
            row("muster up --ephemeral (aim < 8 s)", f"{time.perf_counter() - began:.1f} s", "", "")
            if wanted("reads"):
                await reads.report(stack, bus)
            if wanted("crash"):
                await crash.report(bus, packages)
            if wanted("starts"):
                await starts.worker(stack)
            if wanted("registry"):
                await registry.report(stack, bus)


uvloop.run(main(set(sys.argv[1:])))

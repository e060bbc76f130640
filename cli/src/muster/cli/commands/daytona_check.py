"""Tries Daytona for `muster doctor`, in a process with the code, the variables and the settings of the gateway."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from muster.cli.client.target import configured
from muster.cli.commands.check_result import CheckResult
from muster.common.contracts.provider_tests import ProviderTestResult
from muster.common.faults import Fault

TRIAL_S = 150.0
_KEY = "MUSTER_DAYTONA_API_KEY"


def daytona_check(data_dir: Path) -> Iterator[CheckResult]:
    """Make, use and delete a sandbox at Daytona if a key or the setting `providers` names it. Else yield nothing."""
    providers = os.environ.get("MUSTER_PROVIDERS") or configured("providers") or ""
    named = "daytona" in [name.strip() for name in providers.split(",")]
    if not (named or os.environ.get(_KEY) or os.environ.get(f"{_KEY}_FILE")):
        return
    result = _tried(data_dir)
    if result is None:
        yield CheckResult("daytona", "warn", f"no result within {TRIAL_S:g} s", "Is MUSTER_DAYTONA_API_URL reachable?")
    elif result.failed is None:
        yield CheckResult("daytona", "ok", f"a sandbox was made, used and deleted in {result.seconds:.1f} s")
    else:
        verdict = "blocks" if named and result.failed == "settings" else "warn"
        yield CheckResult("daytona", verdict, f"{result.failed} failed", result.error)


def _tried(data_dir: Path) -> ProviderTestResult | None:
    from muster.embedded.environment import daytona_test_environment

    try:
        done = subprocess.run(
            [sys.executable, "-m", "muster.sandbox_gateway", "test-daytona"],
            env=daytona_test_environment(os.environ, data_dir),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TRIAL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None
    try:
        return ProviderTestResult.from_json(done.stdout)
    except Fault:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        error = lines[-1] if lines else "no output"
        return ProviderTestResult(provider="daytona", seconds=0.0, failed="settings", error=error)

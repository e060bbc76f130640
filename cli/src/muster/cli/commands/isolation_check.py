"""Tries all isolation levels of local agents for `muster doctor`."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from muster.cli.commands.check_result import CheckResult
from muster.common.configuration_file import ConfigurationError
from muster.common.faults import InvalidMessage
from muster.common.isolation_levels import STRONGEST


def isolation_check() -> Iterator[CheckResult]:
    """Yield one line with the level that a stack would have, its reason, and what was found about all other levels."""
    from muster.embedded.isolation_floor import required_isolation
    from muster.shim.isolation import NAMESPACES_REMEDY, IsolationMissing, IsolationSelector, tried_levels

    with tempfile.TemporaryDirectory(prefix="muster-doctor-") as state:
        try:
            least = required_isolation(os.environ)
            isolation = IsolationSelector.probed("auto", Path(state), least).isolation
        except IsolationMissing as missing:
            yield CheckResult("isolation", "blocks", f"agents cannot be isolated: {missing.why}", f"{missing.remedy}.")
            return
        except (InvalidMessage, ConfigurationError) as error:
            yield CheckResult("isolation", "blocks", str(error), "Correct the setting.")
            return
        weaker = [
            f"{level} works" if works else f"{level} does not work ({found})"
            for level, found, works in tried_levels(Path(state))
            if level not in (isolation.level, "plain", *isolation.failed)
        ]
    others = f". Other levels: {', '.join(weaker)}" if weaker else ""
    permitted = f". MUSTER_ISOLATION_AT_LEAST permits {least} and stronger levels" if least else ""
    found = f"{isolation.level}: {isolation.why}{others}{permitted}"
    if isolation.level == STRONGEST:
        yield CheckResult("isolation", "ok", found)
    else:
        remedy = f"For the level {STRONGEST}: {NAMESPACES_REMEDY[0].lower()}{NAMESPACES_REMEDY[1:]}."
        yield CheckResult("isolation", "warn", found, remedy)

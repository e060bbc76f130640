"""The table of all detectors, in the order in which they take a step."""

from muster.guardian.detectors.interface import Detector
from muster.guardian.detectors.repeated_action import RepeatedAction

DETECTORS: tuple[type[Detector], ...] = (RepeatedAction,)


def new_detectors() -> tuple[Detector, ...]:
    """Make one detector of each kind, for a new trajectory."""
    return tuple(detector() for detector in DETECTORS)

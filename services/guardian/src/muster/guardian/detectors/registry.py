"""The table of all detectors, in the order in which they are called for a step."""

from muster.guardian.detectors.interface import Detector
from muster.guardian.detectors.repeated_action import RepeatedAction

DETECTORS: tuple[type[Detector], ...] = (RepeatedAction,)


def new_detectors() -> tuple[Detector, ...]:
    """Return one new detector of each kind, for the steps of a new sandbox."""
    return tuple(detector() for detector in DETECTORS)

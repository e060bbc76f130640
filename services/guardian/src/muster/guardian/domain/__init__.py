"""Pure: the fold, the detectors and the decisions. Time is the records' time."""

"""Detectors: one module for each rule that finds trouble in a trajectory."""

"""Detectors: one module for each rule that finds trouble in the steps of an agent."""

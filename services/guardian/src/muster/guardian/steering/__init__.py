"""Steering: interventions, their receipts, and the execution of decisions."""

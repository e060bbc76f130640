"""Steering: interventions with their stages, requests of people, and the execution of decisions."""

"""Steering: messages to agents with the stages they reach, requests of people, and the execution of decisions."""

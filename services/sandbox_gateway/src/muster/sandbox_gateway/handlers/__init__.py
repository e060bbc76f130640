"""What other services ask of the gateway."""

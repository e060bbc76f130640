"""What the guardian is asked."""

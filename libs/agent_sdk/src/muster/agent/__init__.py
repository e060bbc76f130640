"""What an agent package builds on: the `Agent` class, and its links to Muster in both modes."""

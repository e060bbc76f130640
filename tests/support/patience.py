"""How long tests wait, and how they tell an answer from a deadline. Neither is a measure: what is fast is for the bench."""

PATIENCE_S = 60.0
"""What must come may take this long on a busy machine."""
PROMPT_S = 20.0
"""What came within this was not ended by a deadline that the test had set far beyond."""

"""Tasks: submission, the queue, dispatch, attempts, and replacements of attempts that failed."""

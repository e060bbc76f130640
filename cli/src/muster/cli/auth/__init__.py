"""`muster auth`: who one is to an API, and who else may use it."""

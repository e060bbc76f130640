"""The cursor, the sources and the end of a task's feed, and the request bodies of the tasks' routes, without I/O."""

"""Database access of the feature `tasks`: SQL statements about tasks, attempts and replacements."""

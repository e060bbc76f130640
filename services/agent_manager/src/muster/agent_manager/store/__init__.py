"""PostgreSQL, schema `manager`. The truth about tasks, attempts and replacements."""

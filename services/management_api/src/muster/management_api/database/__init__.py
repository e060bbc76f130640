"""Schema `api`: the pool, tables, pages and migrations."""

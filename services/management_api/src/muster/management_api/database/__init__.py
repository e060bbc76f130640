"""The database schema `api` of the API: connections, tables, pages of rows, and migrations."""

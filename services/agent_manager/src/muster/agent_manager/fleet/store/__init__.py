"""Database access of the feature `fleet`: SQL statements about agents, launches and ownership."""

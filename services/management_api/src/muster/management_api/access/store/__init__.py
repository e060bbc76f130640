"""Stores users and API keys, and receives notices of changed permissions from the database."""

"""Adapters that call models: one for LiteLLM, one for scripted models, and the table that chooses the adapter."""

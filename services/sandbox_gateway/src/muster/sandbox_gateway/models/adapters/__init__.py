"""Adapters to model providers: LiteLLM, scripted models, and the table that chooses between them."""

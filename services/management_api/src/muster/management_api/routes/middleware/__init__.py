"""What concerns every request, as plain ASGI: one module for each."""

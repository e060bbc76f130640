"""The other services, as the API reaches them."""

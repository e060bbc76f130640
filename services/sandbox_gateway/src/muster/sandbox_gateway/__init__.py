"""The sandbox gateway: makes sandboxes, and serves all requests of the workers inside them."""

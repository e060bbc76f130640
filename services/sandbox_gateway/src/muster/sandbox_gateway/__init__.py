"""The sandbox gateway: a service that makes sandboxes and answers all requests of the workers inside them."""

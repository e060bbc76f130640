"""The loops of sandboxes: reconciliation, worker leases, presence, and the expiry of records."""

"""The background loops for sandboxes: reconciliation, worker leases, the gateway's presence, and expiry of records."""

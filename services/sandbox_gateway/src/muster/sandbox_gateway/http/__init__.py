"""The gateway's HTTP application for sandboxes: requests, access and allowances."""

"""The gateway's HTTP application for workers: reads, authorizes and limits the requests of each sandbox."""

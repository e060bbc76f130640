"""The management API: the HTTP service for people and scripts that use Muster."""

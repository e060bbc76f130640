"""The provider `local`: sandboxes are directories and processes on this host."""

"""The provider `local`, whose sandboxes are directories and processes on the gateway's host."""

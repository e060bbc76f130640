"""Pure decisions of the proxy: which hosts and addresses a sandbox may reach, and what a request asks for."""

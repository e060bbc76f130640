"""The shim: a process that starts and isolates worker processes, which then outlive the services that use them."""

"""The shim: a process that starts and isolates worker processes. The workers outlive the services that use them."""

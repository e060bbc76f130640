"""The paths of this host that isolated workers may read, and the interpreter that runs the shim's programs."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

# The interpreter of a venv is a link, often to another link in a home directory that the sandbox does not have.
PYTHON = os.path.realpath(sys.executable)
# The keeper is started without `site`, whose import takes most of an interpreter's start time.
FLAGS = ["-I", "-S"]
SYSTEM_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64")
"""Directories of programs and libraries beside `/usr`. On most systems they are links into `/usr`."""
KERNEL_SETTINGS = ("acpi", "bus", "fs", "irq", "scsi", "sys", "sysrq-trigger")
"""Names below /proc of kernel settings, which a worker with the user id 0 could change even without capabilities."""
_TLS = [
    *("ssl/certs", "ssl/cert.pem", "ssl/openssl.cnf"),
    *("pki/ca-trust", "pki/tls/certs", "pki/tls/cert.pem", "pki/tls/openssl.cnf"),
]
"""Files below /etc that TLS libraries need. Their directories also hold private keys, so only these are readable."""


def shared_etc(*, network: bool) -> Sequence[str]:
    """Return the names below `/etc` that every worker may read."""
    shared = ["alternatives", "ca-certificates", "ld.so.cache", "localtime", *_TLS]
    return [*shared, "gai.conf", "hosts", "nsswitch.conf", "resolv.conf"] if network else shared


def interpreter_paths() -> list[str]:
    """Return the directories of this Python interpreter, and links to the interpreter that lie elsewhere."""
    directories = [
        prefix
        for prefix in dict.fromkeys((sys.prefix, sys.base_prefix, str(Path(PYTHON).parents[1])))
        if not Path(prefix).is_relative_to("/usr") and Path(prefix) != Path("/")
    ]
    links, hop = list[str](), Path(sys.executable)
    while hop.is_symlink():
        hop = Path(os.path.normpath(hop.parent / hop.readlink()))
        if not any(hop.is_relative_to(directory) for directory in [*directories, "/usr"]):
            links.append(str(hop))
    return directories + links

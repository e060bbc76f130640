"""The certificate files with which this process and a server identify themselves to each other."""

import ssl
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """PEM files; read again at each connection, so that renewed ones are used."""

    ca_file: Path | None = None
    """The authorities whose certificates a server may have."""
    authorities: str = ""
    """The content of such a file, where there is no file."""
    cert_file: Path | None = None
    """The certificate of this process, for a server that asks for one."""
    key_file: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return the check of the server's certificate and name.

        Raises `OSError` (also `ssl.SSLError`) saying what is wrong.
        """
        context = ssl.create_default_context(cafile=self.ca_file, cadata=self.authorities or None)
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context


def tls_files(name: str, ca_file: Path | None, cert_file: Path | None, key_file: Path | None) -> TlsFiles | None:
    """Return the files, or None if none is given. Raises `ValueError` if one is missing or cannot be used."""
    if ca_file is None:
        if cert_file or key_file:
            raise ValueError(f"{name}_TLS_CA_FILE must say whose certificates the server may have")
        return None
    if (cert_file is None) != (key_file is None):
        raise ValueError(f"give both {name}_TLS_CERT_FILE and {name}_TLS_KEY_FILE, or neither")
    files = TlsFiles(ca_file=ca_file, cert_file=cert_file, key_file=key_file)
    try:
        files.context()
    except OSError as error:
        why = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise ValueError(f"the files of {name}_TLS_… cannot be used: {why or type(error).__name__}") from None
    return files

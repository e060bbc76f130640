"""The certificate files with which a process checks a server's certificate and shows its own."""

import ssl
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class TlsFiles:
    """Paths of PEM files. They are read at each connection, so that renewed files are used."""

    ca_file: Path | None = None
    """A PEM file of the authorities that sign the server's certificate."""
    authorities: str = ""
    """The content of such a PEM file, if there is no file."""
    cert_file: Path | None = None
    """The certificate of this process, for a server that requires one."""
    key_file: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Return a TLS context that checks the server's certificate and name.

        Raises `OSError` (also `ssl.SSLError`) if a file cannot be used.
        """
        context = ssl.create_default_context(cafile=self.ca_file, cadata=self.authorities or None)
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context


def tls_files(name: str, ca_file: Path | None, cert_file: Path | None, key_file: Path | None) -> TlsFiles | None:
    """Return the TLS files, or None if no file is given. Raises `ValueError` for a missing or unusable file."""
    if ca_file is None:
        if cert_file or key_file:
            raise ValueError(f"{name}_TLS_CA_FILE is missing; set it to the authorities of the server's certificate")
        return None
    if (cert_file is None) != (key_file is None):
        raise ValueError(f"set {name}_TLS_CERT_FILE and {name}_TLS_KEY_FILE together, or none of them")
    files = TlsFiles(ca_file=ca_file, cert_file=cert_file, key_file=key_file)
    try:
        files.context()
    except OSError as error:
        why = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise ValueError(f"the files of {name}_TLS_… cannot be used: {why or type(error).__name__}") from None
    return files

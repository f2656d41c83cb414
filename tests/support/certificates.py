"""The tests' own certificates, made by openssl."""

import ssl
import subprocess
from pathlib import Path

__all__ = ["Certificate"]


class Certificate:
    """A self-signed certificate, for 127.0.0.1 unless other hosts are given."""

    def __init__(self, folder: Path, hosts: str = "IP:127.0.0.1,DNS:localhost") -> None:
        self.file, self.key = folder / "certificate.pem", folder / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
             "-subj", "/CN=the tests", "-addext", f"subjectAltName={hosts}",
             "-keyout", self.key, "-out", self.file],
            check=True,
            capture_output=True,
        )  # fmt: skip

    def context(self) -> ssl.SSLContext:
        """Return the context of a server with this certificate."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(self.file, self.key)
        return made

"""An authority with revocation lists, and the files that programs are given of it."""

from __future__ import annotations

import datetime
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_DAY = datetime.timedelta(days=1)


def now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Authority:
    """folder: where the files are: NAME.pem and NAME.key of whom it vouches for, ca.pem, crl.pem."""

    def __init__(self, folder: Path) -> None:
        self.ca = trustme.CA()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.ca.cert_pem.write_to_path(folder / "ca.pem")
        self._revoked: list[int] = []
        self._lists = 0

    def issue(self, name: str, *identities: str, days: int = 1, begun: int = 1) -> tuple[Path, Path]:
        """Return the files of a new certificate and its key. days: until it is over, which may be past."""
        leaf = self.ca.issue_cert(
            *identities,
            common_name=name,
            not_before=now() - begun * _DAY,
            not_after=now() + days * _DAY,
        )
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        key.write_bytes(leaf.private_key_pem.bytes())
        key.chmod(0o600)
        return certificate, key

    def revoke(self, *names: str, days: int = 1) -> Path:
        """Write the list of what is revoked: these certificates, too. days: until the next list must be there."""
        authority = x509.load_pem_x509_certificate(self.ca.cert_pem.bytes())
        signer = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        assert isinstance(signer, ec.EllipticCurvePrivateKey)
        for name in names:
            found = x509.load_pem_x509_certificate((self.folder / f"{name}.pem").read_bytes())
            self._revoked.append(found.serial_number)
        made = x509.CertificateRevocationListBuilder().issuer_name(authority.subject)
        # Of two lists OpenSSL takes the newer one; authorities make no two in one second.
        self._lists += 1
        made = made.last_update(now() - (10 - 0.1 * self._lists) * _DAY).next_update(now() + days * _DAY)
        for serial in self._revoked:
            one = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now() - _DAY).build()
            made = made.add_revoked_certificate(one)
        path = self.folder / "crl.pem"
        fresh = path.with_suffix(".new")
        fresh.write_bytes(made.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        fresh.replace(path)
        return path

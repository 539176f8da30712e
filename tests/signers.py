"""Whoever signs bundles in tests, without the export tool."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat


class Signer:
    """A pair of keys."""

    def __init__(self) -> None:
        self._key = Ed25519PrivateKey.generate()
        public = self._key.public_key()
        self.raw = public.public_bytes_raw()
        self.public = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.private = self._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def sign(self, bundle: Path) -> Path:
        """Signs NAME/VERSION as docs/security.md has it; returns the folder."""
        signed = b"retinue-manifest-v1\0" + f"{bundle.parent.name}/{bundle.name}\0".encode()
        aside = bundle / ".sig"
        aside.write_bytes(self._key.sign(signed + (bundle / "manifest.json").read_bytes()))
        aside.rename(bundle / "manifest.sig")
        return bundle


def write_keys(path: Path, *signers: Signer) -> Path:
    """Writes a file of public keys, which appears at once as a whole."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(b"".join(signer.public for signer in signers))
    fresh.chmod(0o644)
    return fresh.rename(path)

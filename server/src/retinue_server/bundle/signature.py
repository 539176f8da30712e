"""Signatures of bundles: Ed25519 over a manifest, which has the graph's hash, and over where it belongs."""

import os
import re
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from retinue_server.bundle import json_file
from retinue_server.bundle.manifest import MANIFEST_FILE
from retinue_server.errors import BundleError, StartupError

SIGNATURE_FILE = "manifest.sig"
# Source: RFC 8032, 5.1.6.
SIGNATURE_BYTES = 64

# Public keys, 32 bytes each. Source: RFC 8032, 5.1.5.
Keys = frozenset[bytes]

# What is signed for something else, or in another way, is never taken for this.
_PURPOSE = b"retinue-manifest-v1\0"
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_MAKE = "`openssl genpkey -algorithm ed25519` makes a pair"
_SIGN = "sign it with retinue-export sign"


def signed_bytes(name: str, version: int, manifest: bytes) -> bytes:
    """What a signature is over: else an old version that was signed could come back under a new number.

    Args:
        name: The model's.
        version: The bundle's.
        manifest: The content of its manifest.json.
    """
    return _PURPOSE + f"{name}/{version}".encode() + b"\0" + manifest


def check(folder: Path, name: str, version: int, manifest: bytes, keys: Keys) -> None:
    """Refuses a bundle that none of some keys has signed as this version of this model.

    Args:
        folder: The bundle's.
        name: As for `signed_bytes`.
        version: Likewise.
        manifest: Likewise, as it was read.
        keys: Whose signatures hold.

    Raises:
        BundleError: There is no signature, or it does not hold.
    """
    signature = _read(folder / SIGNATURE_FILE)
    signed = signed_bytes(name, version, manifest)
    if not any(_holds(key, signature, signed) for key in keys):
        raise BundleError(
            f"{folder / SIGNATURE_FILE} is no signature of {MANIFEST_FILE} as {name}/{version} by a key that is "
            "trusted here: the manifest was changed, the bundle was signed under another name or version, or by "
            f"another key; copy the bundle again, or {_SIGN}.",
            reason="SIGNATURE_INVALID",
        )


def missing(path: Path, what: str) -> BundleError:
    """What is said of a bundle that is not signed.

    Args:
        path: Of the file that is missing.
        what: What to do about it.
    """
    return BundleError(
        f"{path} is missing, and a signature is required; {what}.",
        reason="SIGNATURE_MISSING",
    )


def public_keys(content: bytes, source: str) -> Keys:
    """Reads public keys, one or several one after another, PEM.

    Args:
        content: Of their file.
        source: What to call it.

    Raises:
        StartupError: There is none, or something else beside them.
    """
    if b"PRIVATE KEY-----" in content:
        raise StartupError(
            f"{source} has a private key, which is for whoever signs alone; `openssl pkey -in KEY.pem -pubout` makes "
            "the public one of it."
        )
    blocks = [block[0] for block in _PEM.finditer(content)]
    if not blocks:
        raise StartupError(f"{source} has no public key in PEM; {_MAKE}.")
    if content.count(b"-----BEGIN ") != len(blocks):
        raise StartupError(f"{source} has a key in PEM that does not end; write the file again.")
    return frozenset(_public_key(block, f"{source}: key {number}") for number, block in enumerate(blocks, 1))


def _public_key(block: bytes, what: str) -> bytes:
    try:
        key = load_pem_public_key(block)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise StartupError(f"{what} is no public key in PEM that can be read; {_MAKE}.") from error
    if not isinstance(key, Ed25519PublicKey):
        raise StartupError(f"{what} is for another algorithm than Ed25519; {_MAKE}.")
    return key.public_bytes_raw()


def _read(path: Path) -> bytes:
    if not os.path.lexists(path):
        raise missing(path, _SIGN)
    with json_file.opened(path) as file:
        content = file.read(SIGNATURE_BYTES + 1)
    if len(content) != SIGNATURE_BYTES:
        raise BundleError(
            f"{path} has not the {SIGNATURE_BYTES} bytes of a signature; {_SIGN}.", reason="SIGNATURE_INVALID"
        )
    return content


def _holds(key: bytes, signature: bytes, signed: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, signed)
    except InvalidSignature:
        return False
    return True

"""Signs bundles, so that servers can be told to serve nothing else."""

from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from retinue_export.errors import ExportError
from retinue_server.bundle import manifest as manifest_file
from retinue_server.bundle import signature
from retinue_server.bundle.repository import VERSION_PATTERN, BundleFolder

_MOST_KEY_BYTES = 64 * 1024
_MAKE = "`openssl genpkey -algorithm ed25519 -out KEY.pem` makes one"


def read_key(path: Path, ask_password: Callable[[], str]) -> Ed25519PrivateKey:
    """Reads a private key.

    Args:
        path: PEM.
        ask_password: Asked where it needs one.

    Raises:
        ExportError: It cannot be read, or is no such key.
    """
    content = _content(path)
    try:
        try:
            key = load_pem_private_key(content, None)
        except TypeError:  # it is encrypted
            key = load_pem_private_key(content, ask_password().encode())
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ExportError(
            f"{path} has no private key in PEM, or the password is another; {_MAKE}."
        ) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ExportError(f"{path} has a key for another algorithm than Ed25519; {_MAKE}.")
    return key


def read_public_keys(path: Path) -> signature.Keys:
    """Reads public keys, as a server does.

    Raises:
        ExportError: The file cannot be read.
        StartupError: It has something else than such keys.
    """
    return signature.public_keys(_content(path), str(path))


def placed(folder: Path) -> BundleFolder:
    """A bundle where it lies, NAME/VERSION, which is what a signature is for.

    Raises:
        ExportError: It lies elsewhere.
    """
    folder = folder.resolve()
    if VERSION_PATTERN.fullmatch(folder.name) is None:
        raise ExportError(
            f"{folder} is no version folder NAME/VERSION, nor has one: a signature says which version of which model a "
            "bundle is. For all in a models folder name MODELS/*/[1-9]*."
        )
    return BundleFolder(folder.parent.name, int(folder.name), folder)


def sign(bundle: BundleFolder, key: Ed25519PrivateKey) -> bytes:
    """The signature of a bundle that holds.

    Raises:
        BundleError: It does not.
        ExportError: It has no manifest.
    """
    path = bundle.path / manifest_file.MANIFEST_FILE
    if not path.exists():
        raise ExportError(
            f"{path} is missing, and it is what is signed; adopt makes a bundle of an ONNX model."
        )
    bundle.read()
    read: list[bytes] = []
    manifest_file.read(bundle.path, read.append)
    return key.sign(signature.signed_bytes(bundle.name, bundle.version, read[0]))


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_KEY_BYTES + 1)
    except OSError as error:
        raise ExportError(f"{path} cannot be read: {error.strerror}.") from error
    if len(content) > _MOST_KEY_BYTES:
        raise ExportError(f"{path} has more than {_MOST_KEY_BYTES} bytes, and is no key; {_MAKE}.")
    return content

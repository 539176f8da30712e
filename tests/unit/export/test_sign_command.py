"""`retinue-export sign`: what it signs is what a server takes, and openssl's keys and signatures fit."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from tests import colour_bundles, pipelines
from tests.signers import Signer, write_keys
from tests.unit.export.command import run

from retinue_export import cli, signing
from retinue_server.bundle.repository import scan
from retinue_server.errors import BundleError


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key, and beside it the public one, as docs/security.md has them made."""
    for command in (
        "genpkey -algorithm ed25519 -out signing.pem",
        "pkey -in signing.pem -pubout -out trusted.pem",
    ):
        subprocess.run(["openssl", *command.split()], cwd=tmp_path, check=True)
    return tmp_path / "signing.pem"


def read_signed(models: Path, key: Path) -> list[str]:
    """Reads all bundles as a server does that trusts this key's owner."""
    keys = signing.read_public_keys(key.with_name("trusted.pem"))
    return [bundle.read().name for bundle in scan(models, lambda: keys)]


def test_what_is_signed_is_what_a_server_takes(tmp_path: Path, key: Path) -> None:
    models = tmp_path / "models"
    one = colour_bundles.classifier(models, "one", 7)
    colour_bundles.classifier(models, "two", 1)
    pipelines.declare(models, "both", "TASK_TENSOR", "one", "two")
    cli.app(
        ["sign", str(one), str(models / "two"), str(models / "both"), "--key", str(key)],
        standalone_mode=False,
    )
    assert read_signed(models, key) == ["both", "one", "two"]
    assert [path.name for path in sorted(one.iterdir())] == ["manifest.json", "manifest.sig", "model.onnx"]


def test_openssl_makes_the_same_signature(tmp_path: Path, key: Path) -> None:
    bundle = colour_bundles.classifier(tmp_path / "models", "a", 7)
    script = """
        { printf 'retinue-manifest-v1\\0a/7\\0'; cat models/a/7/manifest.json; } > signed
        openssl pkeyutl -sign -inkey signing.pem -rawin -in signed -out models/a/7/manifest.sig
    """
    subprocess.run(["sh", "-ec", script], cwd=tmp_path, check=True)
    assert read_signed(tmp_path / "models", key) == ["a"]
    signature = (bundle / "manifest.sig").read_bytes()
    (found,) = scan(tmp_path / "models")
    assert signing.sign(found, signing.read_key(key, lambda: "")) == signature


def test_a_new_signature_takes_the_place_of_the_old_one(tmp_path: Path, key: Path) -> None:
    bundle = Signer().sign(colour_bundles.classifier(tmp_path / "models"))
    cli.app(["sign", str(bundle), "--key", str(key)], standalone_mode=False)
    assert read_signed(tmp_path / "models", key) == ["colour-classifier"]


def test_a_key_with_a_password_is_asked_for_it(tmp_path: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "key.pem"
    path.write_bytes(
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"right"))
    )
    with pytest.raises(signing.ExportError, match="or the password is another"):
        signing.read_key(path, lambda: "wrong")
    with pytest.raises(signing.ExportError, match="another algorithm than Ed25519"):
        signing.read_key(path, lambda: "right")


def test_nothing_is_signed_where_one_bundle_does_not_hold(
    tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = colour_bundles.classifier(tmp_path / "models", "good")
    bad = colour_bundles.classifier(tmp_path / "models", "bad")
    (bad / "model.onnx").write_bytes(b"another")
    code, _, told = run(capsys, "sign", good, bad, "--key", key)
    assert (code, "field `sha256`" in told) == (2, True)
    assert list(tmp_path.glob("models/*/*/manifest.sig")) == []


@pytest.mark.parametrize(
    ("prepare", "told"),
    [
        (lambda bundle: bundle.rename(bundle.with_name("latest")), "is no version folder NAME/VERSION"),
        (
            lambda bundle: (bundle / "manifest.json").unlink(),
            "manifest.json is missing, and it is what is signed",
        ),
        (
            lambda bundle: bundle.parent.rename(bundle.parent.with_name("renamed")),
            "but its folder is called 'renamed'",
        ),
    ],
)
def test_what_a_server_would_refuse_is_not_signed(
    prepare: object, told: str, tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = colour_bundles.classifier(tmp_path / "models")
    assert callable(prepare)
    prepare(bundle)
    (moved,) = (tmp_path / "models").glob("*/*")
    code, _, error = run(capsys, "sign", moved, "--key", key)
    assert code == 2
    assert told in error


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (Signer().public, "has no private key in PEM"),
        (b"", "has no private key in PEM"),
        (bytes(100_000), "has more than 65536 bytes"),
        (
            ec.generate_private_key(ec.SECP256R1()).private_bytes(
                Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
            ),
            "for another algorithm than Ed25519",
        ),
    ],
    ids=["public", "empty", "large", "another algorithm"],
)
def test_other_keys_are_refused_with_advice(
    content: bytes, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = colour_bundles.classifier(tmp_path / "models")
    (tmp_path / "key.pem").write_bytes(content)
    code, _, error = run(capsys, "sign", bundle, "--key", tmp_path / "key.pem")
    assert code == 2
    assert told in error
    assert "openssl genpkey -algorithm ed25519" in error


def test_verify_checks_the_signature_first(
    tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = colour_bundles.classifier(tmp_path / "models")
    code, _, error = run(capsys, "verify", bundle, "--key", key.with_name("trusted.pem"))
    assert (code, "manifest.sig is missing" in error) == (2, True)
    Signer().sign(bundle)
    code, _, error = run(capsys, "verify", bundle, "--key", key.with_name("trusted.pem"))
    assert (code, "is no signature of manifest.json" in error) == (2, True)
    code, _, error = run(capsys, "verify", bundle, "--key", key)
    assert (code, "has a private key" in error) == (2, True)
    other = Signer()
    write_keys(tmp_path / "others.pem", other)
    other.sign(bundle)
    keys = signing.read_public_keys(tmp_path / "others.pem")
    assert replace(signing.placed(bundle), keys=lambda: keys).read().name == "colour-classifier"
    with pytest.raises(BundleError):
        replace(signing.placed(bundle), keys=frozenset).read()

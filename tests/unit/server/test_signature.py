"""Only what a trusted key has signed, as this version of this model, is read."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests import colour_bundles, pipelines
from tests.certificates import Authority
from tests.signers import Signer, write_keys

from retinue_server.bundle import sealed
from retinue_server.bundle.repository import BundleFolder, scan
from retinue_server.errors import BundleError, StartupError
from retinue_server.settings import Settings
from retinue_server.signers import SignerFile


@pytest.fixture
def signer() -> Signer:
    return Signer()


@pytest.fixture
def bundle(tmp_path: Path, signer: Signer) -> Path:
    return signer.sign(colour_bundles.classifier(tmp_path / "models", "a", 3))


def found(bundle: Path, *signers: Signer) -> BundleFolder:
    """The bundle, as those who trust these signers find it."""
    keys = frozenset(signer.raw for signer in signers)
    (one,) = scan(bundle.parent.parent, lambda: keys)
    return one


def test_a_signed_bundle_is_read_by_each_who_trusts_its_signer(bundle: Path, signer: Signer) -> None:
    assert found(bundle, signer).read().name == "a"
    assert found(bundle, Signer(), signer).read().name == "a"


@pytest.mark.parametrize("others", [0, 1, 2])
def test_another_key_does_not_count(others: int, bundle: Path) -> None:
    with pytest.raises(BundleError, match="by another key") as refused:
        found(bundle, *(Signer() for _ in range(others))).read()
    assert refused.value.reason == "SIGNATURE_INVALID"


def _space_after(bundle: Path) -> None:
    with (bundle / "manifest.json").open("ab") as file:
        file.write(b" ")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_space_after, "the manifest was changed"),
        (lambda bundle: colour_bundles.rewrite_manifest(bundle, labels=["a", "b", "c"]), "the manifest was"),
        (lambda bundle: bundle.rename(bundle.with_name("4")), "as a/4 by a key"),
        (lambda bundle: bundle.parent.rename(bundle.parent.with_name("b")), "as b/3 by a key"),
        (lambda bundle: (bundle / "manifest.sig").write_bytes(b""), "has not the 64 bytes"),
        (lambda bundle: (bundle / "manifest.sig").write_bytes(bytes(63)), "has not the 64 bytes"),
        (lambda bundle: (bundle / "manifest.sig").write_bytes(bytes(65)), "has not the 64 bytes"),
        (lambda bundle: (bundle / "manifest.sig").write_bytes(bytes(64)), "is no signature of"),
        (lambda bundle: (bundle / "manifest.sig").write_bytes(os.urandom(64)), "is no signature of"),
        (lambda bundle: os.truncate(bundle / "manifest.sig", 10**12), "has not the 64 bytes"),
    ],
)
def test_what_was_changed_or_moved_is_refused(
    change: Callable[[Path], object], told: str, bundle: Path, signer: Signer, tmp_path: Path
) -> None:
    change(bundle)
    (moved,) = (tmp_path / "models").glob("*/*")
    with pytest.raises(BundleError, match=told) as refused:
        found(moved, signer).read()
    assert refused.value.reason == "SIGNATURE_INVALID"
    assert refused.value.message.startswith(str(moved / "manifest.sig"))
    assert "retinue-export sign" in refused.value.message


def test_a_changed_graph_is_refused_by_the_hash_that_was_signed(bundle: Path, signer: Signer) -> None:
    with (bundle / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(BundleError, match="field `sha256`"):
        found(bundle, signer).read()


def test_what_no_one_has_signed_is_refused_and_served_where_no_signature_is_needed(
    bundle: Path, signer: Signer
) -> None:
    (bundle / "manifest.sig").unlink()
    with pytest.raises(
        BundleError, match=r"manifest\.sig is missing, and a signature is required"
    ) as refused:
        found(bundle, signer).read()
    assert refused.value.reason == "SIGNATURE_MISSING"
    assert scan(bundle.parent.parent)[0].read().name == "a"


def test_nothing_is_made_of_a_manifest_before_its_signature_holds(bundle: Path, signer: Signer) -> None:
    (bundle / "manifest.json").write_bytes(b"no JSON")
    with pytest.raises(BundleError, match="is no signature"):
        found(bundle, signer).read()


def test_a_signature_that_is_no_file_is_refused(bundle: Path, signer: Signer) -> None:
    (bundle / "manifest.sig").unlink()
    os.mkfifo(bundle / "manifest.sig")
    with pytest.raises(BundleError, match="no regular file"):
        found(bundle, signer).read()


def test_a_signature_that_lies_elsewhere_is_refused(bundle: Path, signer: Signer, tmp_path: Path) -> None:
    elsewhere = (bundle / "manifest.sig").rename(tmp_path / "manifest.sig")
    (bundle / "manifest.sig").symlink_to(elsewhere)
    with pytest.raises(BundleError, match="leads out of the models folder") as refused:
        found(bundle, signer).read()
    assert refused.value.reason == "LINK_LEADS_OUT"


def test_a_model_without_a_manifest_cannot_be_signed(bundle: Path, signer: Signer) -> None:
    (bundle / "manifest.json").unlink()
    with pytest.raises(BundleError, match=r"manifest\.json is missing.*retinue-export adopt") as refused:
        found(bundle, signer).read()
    assert refused.value.reason == "SIGNATURE_MISSING"


def test_a_pipeline_needs_a_signature_too(tmp_path: Path, signer: Signer) -> None:
    folder = pipelines.declare(tmp_path, "both", "TASK_DETECT", "one", "other")
    with pytest.raises(BundleError, match=r"manifest\.sig is missing"):
        found(folder, signer).read()
    signer.sign(folder)
    assert found(folder, signer).read().HasField("pipeline")


def test_signing_and_other_keys_are_seen_as_changes(bundle: Path, signer: Signer) -> None:
    states = [found(bundle).state(), found(bundle, signer).state()]
    signer.sign(bundle)
    states.append(found(bundle, signer).state())
    (bundle / "manifest.sig").write_bytes(bytes(64))
    states.append(found(bundle, signer).state())
    assert len(set(states)) == len(states)
    assert found(bundle, signer).state() == states[-1]


def test_the_graph_is_a_copy_that_nobody_can_change(bundle: Path, signer: Signer) -> None:
    folder = found(bundle, signer)
    content = (bundle / "model.onnx").read_bytes()
    with folder.graph(folder.read()) as graph:
        (bundle / "model.onnx").write_bytes(b"another")
        assert graph.read_bytes() == content
        with pytest.raises(PermissionError):
            graph.write_bytes(b"another")
        with graph.open("r+b", buffering=0) as file, pytest.raises(PermissionError):
            file.write(b"another")
    assert not graph.exists()


def test_a_graph_that_was_exchanged_after_the_check_is_not_loaded(bundle: Path, signer: Signer) -> None:
    folder = found(bundle, signer)
    manifest = folder.read()
    os.truncate(bundle / "model.onnx", 10**8)
    with (
        pytest.raises(BundleError, match="was changed while it was loaded") as refused,
        folder.graph(manifest),
    ):
        raise AssertionError("it was loaded")
    assert refused.value.reason == "BUNDLE_CHANGED"


def test_without_keys_the_graph_is_the_file(bundle: Path) -> None:
    (folder,) = scan(bundle.parent.parent)
    with folder.graph(folder.read()) as graph:
        assert graph == bundle / "model.onnx"


def _public(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed448.Ed448PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (Signer().private, "has a private key, which is for whoever signs alone"),
        (Signer().public + Signer().private, "has a private key"),
        (_public(rsa.generate_private_key(65537, 2048)), "key 1 is for another algorithm than Ed25519"),
        (Signer().public + _public(ec.generate_private_key(ec.SECP256R1())), "key 2 is for another"),
        (_public(ed448.Ed448PrivateKey.generate()), "key 1 is for another"),
        (Authority().certificate, "key 1 is no public key in PEM that can be read"),
        (Signer().public.replace(b"MCow", b"MCox"), "key 1 is no public key"),
        (b"", "has no public key in PEM; `openssl genpkey -algorithm ed25519` makes a pair"),
        (os.urandom(1000), "has no public key in PEM"),
        (Signer().public[:-10], "has no public key in PEM"),
        (Signer().public + Signer().public[:-10], "has a key in PEM that does not end"),
        (Signer().public[:-10] + Signer().public, "has a key in PEM that does not end"),
        (Signer().public * 1000, "more than 65536 bytes"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_a_file_of_other_things_than_public_keys_is_refused(
    content: bytes, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "keys.pem"
    path.write_bytes(content)
    path.chmod(0o644)
    with pytest.raises(StartupError, match=told) as refused:
        SignerFile(path)
    assert refused.value.message.startswith(f"--require-signature '{path}'")


def test_a_file_that_others_may_change_or_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = write_keys(tmp_path / "keys.pem", Signer())
    path.chmod(0o664)
    with pytest.raises(StartupError, match=r"others may change.*chmod go-w"):
        SignerFile(path)
    with pytest.raises(StartupError, match="cannot read --require-signature"):
        SignerFile(tmp_path / "nowhere.pem")


def test_keys_are_taken_up_when_the_file_changes_and_the_former_stay_where_it_is_broken(
    tmp_path: Path, signer: Signer
) -> None:
    other = Signer()
    path = write_keys(tmp_path / "keys.pem", signer)
    file = SignerFile(path)
    assert file.current() == {signer.raw}
    write_keys(path, signer, other)
    assert file.current() == {signer.raw, other.raw}
    path.write_bytes(b"half-written")
    assert file.current() == {signer.raw, other.raw}


def test_text_around_keys_is_passed_over(tmp_path: Path, signer: Signer) -> None:
    path = tmp_path / "keys.pem"
    path.write_bytes(b"# Ann's, until 2030\n" + signer.public)
    path.chmod(0o644)
    assert SignerFile(path).current() == {signer.raw}


def test_it_is_refused_where_nothing_can_be_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SignerFile.of(Settings()) is None
    monkeypatch.setattr(sealed, "AVAILABLE", False)
    with pytest.raises(StartupError, match="needs Linux"):
        SignerFile.of(Settings(require_signature=str(write_keys(tmp_path / "keys.pem", Signer()))))

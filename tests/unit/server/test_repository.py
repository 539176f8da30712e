from pathlib import Path

import pytest
from tests import colour_bundles

from retinue_server.bundle.repository import BundleFolder, scan
from retinue_server.errors import BundleError, StartupError


def test_bundles_are_listed_by_name_and_version_as_a_number(tmp_path: Path) -> None:
    for name, version in (("b", 10), ("b", 9), ("a", 1), ("B.2_x", 3)):
        (tmp_path / name / str(version)).mkdir(parents=True)
    assert [(bundle.name, bundle.version) for bundle in scan(tmp_path)] == [
        ("B.2_x", 3),
        ("a", 1),
        ("b", 9),
        ("b", 10),
    ]
    assert scan(tmp_path)[1].model_path == tmp_path / "a" / "1" / "model.onnx"


@pytest.mark.parametrize(
    "passed_over",
    ["a/0", "a/01", "a/-1", "a/1.tmp", "a/latest", "a/1e3", "a/٣", "a/9999999999", ".git/1", "white space/1"],
)
def test_other_folders_are_passed_over(passed_over: str, tmp_path: Path) -> None:
    (tmp_path / "good" / "1").mkdir(parents=True)
    (tmp_path / passed_over).mkdir(parents=True)
    assert [(bundle.name, bundle.version) for bundle in scan(tmp_path)] == [("good", 1)]


def test_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "good" / "1").mkdir(parents=True)
    (tmp_path / "README").write_text("")
    (tmp_path / "good" / "2").write_text("")
    assert len(scan(tmp_path)) == 1


def test_links_may_lead_to_the_models_folder_and_within_it(tmp_path: Path) -> None:
    """As Kubernetes mounts a volume: the folder's content is a link to the current one of several hidden ones."""
    volume = tmp_path / "volume"
    colour_bundles.classifier(volume / "..2026_11", "a", 7)
    (volume / "..data").symlink_to("..2026_11")
    (volume / "a").symlink_to("..data/a")
    models = tmp_path / "models"
    models.symlink_to(volume)
    (bundle,) = scan(models)
    assert (bundle.name, bundle.version) == ("a", 7)
    assert bundle.read().name == "a"


@pytest.mark.parametrize("link", ["a", "a/7", "a/7/model.onnx", "a/7/manifest.json"])
def test_a_link_that_leads_out_of_the_models_folder_is_refused(link: str, tmp_path: Path) -> None:
    models = tmp_path / "models"
    elsewhere = tmp_path / "elsewhere"
    colour_bundles.classifier(models, "a", 7)
    (models / link).rename(elsewhere)
    (models / link).symlink_to(elsewhere)
    (bundle,) = scan(models)
    with pytest.raises(BundleError, match="link that leads out of the models folder") as refused:
        bundle.read()
    assert refused.value.reason == "LINK_LEADS_OUT"


def test_a_bundle_that_is_changed_or_replaced_has_another_state(tmp_path: Path) -> None:
    folder = colour_bundles.classifier(tmp_path, "a")
    (bundle,) = scan(tmp_path)
    states = [bundle.state()]
    assert bundle.state() == states[0]
    colour_bundles.rewrite_manifest(folder, opset=19)
    states.append(bundle.state())
    (folder / "model.onnx").chmod(0o600)
    states.append(bundle.state())
    folder.rename(tmp_path / "old")
    states.append(bundle.state())
    colour_bundles.classifier(tmp_path, "a")
    states.append(bundle.state())
    assert len(set(states)) == len(states)


def test_a_folder_that_is_not_there_is_told_from_a_file(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="does not exist: name another with --models"):
        scan(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="is a file: name another with --models"):
        scan(tmp_path / "file")


@pytest.mark.parametrize("folders", [(), ("a",), ("a/latest",), ("1",)])
def test_a_folder_without_a_bundle_says_what_is_expected(folders: tuple[str, ...], tmp_path: Path) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
    with pytest.raises(StartupError, match=r"holds no bundle: expected NAME/VERSION/model\.onnx"):
        scan(tmp_path)


def test_a_bundle_is_read_if_name_and_hash_hold(tmp_path: Path) -> None:
    colour_bundles.classifier(tmp_path, "a")
    (bundle,) = scan(tmp_path)
    assert list(bundle.read().labels) == ["red", "green", "blue"]


def test_a_bundle_in_a_folder_of_another_name_is_refused(tmp_path: Path) -> None:
    folder = colour_bundles.classifier(tmp_path, "a")
    with pytest.raises(BundleError, match="field `name` is 'a', but its folder is called 'b'"):
        BundleFolder("b", 1, folder).read()


def test_a_bundle_with_another_model_is_refused(tmp_path: Path) -> None:
    folder = colour_bundles.classifier(tmp_path, "a")
    (folder / "model.onnx").write_bytes(b"another")
    with pytest.raises(BundleError, match="field `sha256`"):
        BundleFolder("a", 1, folder).read()


def test_of_a_bundle_only_its_own_files_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "a" / "1").mkdir(parents=True)
    bundle = BundleFolder("a", 1, tmp_path / "a" / "1")
    notes = bundle.path / "weights.bin"
    notes.write_text("one")
    (bundle.path / "model.onnx").touch()
    plain = bundle.state()
    notes.write_text("another")
    assert bundle.state() != plain
    (bundle.path / "manifest.json").touch()
    declared = bundle.state()
    notes.write_text("one more")
    assert bundle.state() == declared

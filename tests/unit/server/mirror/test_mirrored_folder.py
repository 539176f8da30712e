"""The folder of models elsewhere that a repository asks."""

from pathlib import Path

import pytest
from tests.unit.server.mirror.elsewhere import Clock, Elsewhere

from retinue_server.bundle.folder import ModelsFolder
from retinue_server.bundle.mirror import Mirror
from retinue_server.bundle.mirrored import MirroredFolder
from retinue_server.errors import BundleError, MirrorError, ModelControlError, StartupError, UnavailableError


@pytest.fixture
def by_calls(mirror: Mirror) -> MirroredFolder:
    return MirroredFolder(mirror, ModelsFolder(mirror.models), "explicit")


def test_calls_copy_what_they_load_and_no_more(
    by_calls: MirroredFolder, elsewhere: Elsewhere, bundle: Path
) -> None:
    elsewhere.upload(bundle, "a", 1)
    elsewhere.upload(bundle, "b", 1)
    assert by_calls.named("") == []
    assert [(found.name, found.version) for found in by_calls.all()] == [("a", 1), ("b", 1)]
    assert elsewhere.downloads == []
    (loaded,) = by_calls.brought("a")
    assert loaded.read().name == "a"
    assert elsewhere.downloads == ["a/1/manifest.json", "a/1/model.onnx"]
    assert by_calls.brought("c") == []


def test_calls_load_what_is_here_where_nothing_can_be_reached(
    by_calls: MirroredFolder, elsewhere: Elsewhere, bundle: Path
) -> None:
    elsewhere.upload(bundle, "a", 1)
    assert [found.name for found in by_calls.named("a")] == ["a"]
    elsewhere.trouble = "no route to 10.0.0.1."
    assert [found.name for found in by_calls.brought("a")] == ["a"]
    assert [found.name for found in by_calls.all()] == ["a"]
    assert [found.name for found in by_calls.named("")] == []
    with pytest.raises(UnavailableError, match="retry later") as refused:
        by_calls.brought("b")
    assert "10.0.0.1" not in refused.value.message


def test_calls_are_told_why_nothing_could_be_copied(by_calls: MirroredFolder, elsewhere: Elsewhere) -> None:
    elsewhere.put("a/1/model.onnx", b"")
    elsewhere.unreadable = {"model.onnx"}
    with pytest.raises(ModelControlError, match=r"cannot be copied: 'model.onnx' cannot be read"):
        by_calls.brought("a")


@pytest.mark.parametrize("control", ["none", "watch", "explicit"])
def test_a_start_without_a_copy_needs_what_there_is_elsewhere(
    control: str, mirror: Mirror, elsewhere: Elsewhere
) -> None:
    folder = MirroredFolder(mirror, ModelsFolder(mirror.models), control)  # type: ignore[arg-type]
    starts = {"none": folder.at_least_one, "watch": folder.brought, "explicit": lambda: folder.named("")}
    elsewhere.trouble = "no route."
    with pytest.raises(MirrorError, match="no route"):
        starts[control]()


def test_a_start_that_finds_nothing_says_what_it_looked_for(mirror: Mirror, elsewhere: Elsewhere) -> None:
    folder = MirroredFolder(mirror, ModelsFolder(mirror.models), "none")
    with pytest.raises(StartupError, match=r"nothing at 'memory://models' .* expected NAME/VERSION"):
        folder.at_least_one()
    elsewhere.put("a/1/model.onnx", b"")
    elsewhere.unreadable = {"model.onnx"}
    with pytest.raises(StartupError, match=r"'model\.onnx' cannot be read: forbidden"):
        folder.at_least_one()


def test_a_model_whose_serving_policy_cannot_be_copied_has_none(
    mirror: Mirror, elsewhere: Elsewhere, bundle: Path, clock: Clock
) -> None:
    folder = MirroredFolder(mirror, ModelsFolder(mirror.models), "watch")
    elsewhere.upload(bundle, "a", 1)
    elsewhere.put("a/serving.json", b'{"latest": 1}')
    elsewhere.unreadable = {"serving.json"}
    assert [found.name for found in folder.brought()] == ["a"]
    with pytest.raises(BundleError, match=r"serving.json cannot be copied: .* forbidden") as refused:
        folder.policy("a")
    assert refused.value.reason == "SERVING_POLICY_NOT_COPIED"
    elsewhere.unreadable = set()
    clock.now = 31
    before = folder.states()
    mirror.look()
    assert folder.policy("a").latest == 1
    # So the server sees it.
    assert folder.states() != before
    # One that is here holds until the next one is.
    elsewhere.put("a/serving.json", b'{"latest": 2}')
    elsewhere.unreadable = {"serving.json"}
    mirror.look()
    assert folder.policy("a").latest == 1


def test_what_is_followed_is_asked_of_the_copy(mirror: Mirror, elsewhere: Elsewhere, bundle: Path) -> None:
    folder = MirroredFolder(mirror, ModelsFolder(mirror.models), "watch")
    elsewhere.upload(bundle, "a", 1)
    assert [found.name for found in folder.brought()] == ["a"]
    elsewhere.trouble = "no route."
    assert folder.states().keys() == {"a"}
    assert [found.name for found in folder.brought("a")] == ["a"]
    assert mirror.state().trouble == ""

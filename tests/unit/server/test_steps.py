from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from retinue.v1 import manifest_pb2 as pb
from tests.pipelines import declare
from tests.unit.server.served import served_model

from retinue_server import banner, inference, steps, tensor_steps
from retinue_server.batching.tickets import Outcome, Priority
from retinue_server.bundle.repository import BundleFolder
from retinue_server.bundle.serving import EVERY_VERSION
from retinue_server.catalog import Catalog, Leases, ServedModel
from retinue_server.errors import (
    BundleError,
    EngineError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
)
from retinue_server.inference import Limits
from retinue_server.interface import Interface
from retinue_server.results import Answer, Task, TensorOptions, TensorRows, Work
from retinue_server.rpc import inference_replies, replies
from retinue_server.runtime.providers import CPU, Provider
from retinue_server.tensors import TensorSpec

NONE = Catalog([], {})
PROVIDER = Provider(CPU, "cpu", "", ((CPU, {}),))
TURN: dict[str, Any] = {"caller": "me", "priority": Priority.HIGH, "deadline": 7.0}
Shapes = Mapping[str, tuple[int, ...]]
X: Shapes = {"x": (-1, 3)}
Y: Shapes = {"y": (-1, 3)}


class FakeQueue:
    """Doubles the input `x` of each row, or one that is named; notes in what turn."""

    refusal = None

    def __init__(self, output: str = "y", source: str = "x") -> None:
        self.rows = 0
        self.error: Exception | None = None
        self._output, self._source = output, source

    def __len__(self) -> int:
        return self.rows

    def check_room(self, count: int, **turn: Any) -> None:
        assert turn == TURN
        if self.error is not None:
            raise self.error

    async def submit(self, items: Sequence[Any], **turn: Any) -> list[Outcome[Any]]:
        assert turn == TURN
        self.rows += len(items)
        return [Outcome(self._answer(item), 0.0) for item in items]

    def _answer(self, item: Any) -> Any:
        if self.error is not None:
            return self.error
        if isinstance(item, Work):
            assert isinstance(item.options, TensorOptions)
            return Answer(TensorRows({"probabilities": np.array([item.image.width / 64])}), 0, 0, 0, 1)
        array = item.tensors[self._source]
        value = array if item.row is None else array[item.row]
        return Answer(TensorRows({self._output: value * 2}), 0.0, 0.0, 0.0, 1)


def tensor_model(
    name: str,
    inputs: Shapes = X,
    outputs: Shapes = Y,
    *,
    queue: FakeQueue | None = None,
    batched: bool = True,
    **datatypes: str,
) -> ServedModel:
    def specs(shapes: Shapes) -> dict[str, TensorSpec]:
        return {one: TensorSpec(one, datatypes.get(one, "FP32"), shape) for one, shape in shapes.items()}

    model = served_model(
        name, task=Task.CLASSIFY, batcher=queue if queue is not None else FakeQueue(*outputs, *inputs)
    )
    manifest = pb.ModelManifest(name=name, task=pb.TASK_TENSOR)
    return replace(
        model,
        task=Task.TENSOR,
        manifest=manifest,
        interface=Interface(specs(inputs), specs(outputs), batched),
    )


def declared(folder: Path) -> ServedModel:
    bundle = BundleFolder(folder.parent.name, int(folder.name), folder)
    return steps.declared(bundle, bundle.read())


def tensors(models: Path, *what: Any, **fields: Any) -> ServedModel:
    return declared(declare(models, "both", "TASK_TENSOR", *what, **fields))


def resolve(pipeline: ServedModel, *models: ServedModel) -> ServedModel:
    return steps.resolved(Catalog([pipeline, *models], {}), NONE).get(pipeline.name)


def why_not(pipeline: ServedModel, *models: ServedModel) -> str:
    catalog = steps.resolved(Catalog([pipeline, *models], {}), NONE)
    assert not catalog.serves(pipeline.name)
    with pytest.raises(ModelNotFoundError):
        catalog.get(pipeline.name)
    return catalog.failures[pipeline.name, 1].message


TWICE = ("first", {"model": "second", "inputs": {"x": "y"}})


async def run(model: ServedModel, **inputs: Any) -> list[Any]:
    limits = Limits(max_images=9, max_image_pixels=9, max_reply_bytes=10**6)
    wanted = inference.check_outputs(model, [])
    works = inference.works(model, inputs, wanted, limits)
    return [outcome.value for outcome in await model.batcher.submit(works, **TURN)]


async def test_each_step_takes_what_the_one_before_it_gives(tmp_path: Path) -> None:
    first, second = tensor_model("first"), tensor_model("second", {"x": (-1, -1)}, {"z": (-1, 3)})
    both = resolve(tensors(tmp_path, *TWICE), first, second)
    assert list(both.interface.inputs) == ["x"]
    assert list(both.interface.outputs) == ["z"]
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    answers = await run(both, x=x)
    assert [answer.result.arrays["z"].tolist() for answer in answers] == (4 * x).tolist()
    assert (len(first.batcher), len(second.batcher), len(both.batcher)) == (2, 2, 0)


async def test_requests_that_run_as_a_whole_do_so_in_each_step(tmp_path: Path) -> None:
    shapes: Shapes = {"x": ()}
    first = tensor_model("first", shapes, {"y": ()}, batched=False)
    second = tensor_model("second", shapes, {"z": ()}, batched=False)
    both = resolve(tensors(tmp_path, *TWICE), first, second)
    (answer,) = await run(both, x=np.array(1.5, np.float32))
    assert answer.result.arrays["z"] == 6


async def test_a_bundle_may_be_a_step(tmp_path: Path) -> None:
    pixels = {"images": (-1, 32, 64, 3)}
    first = tensor_model("first", {"images": (-1, 32, 64, 3)}, pixels, images="UINT8")
    images = TensorSpec("images", "UINT8", (-1, 32, 64, 3), encoded=True)
    outputs = {name: TensorSpec(name, "FP32", (-1, 1)) for name in ("probabilities", "heatmap")}
    second = replace(
        served_model("second", batcher=FakeQueue()),
        interface=Interface({"images": images}, outputs, extra_outputs=frozenset({"heatmap"})),
    )
    both = resolve(tensors(tmp_path, "first", "second"), first, second)
    assert list(both.interface.outputs) == ["probabilities"]
    answers = await run(both, images=np.zeros((3, 32, 64, 3), np.uint8))
    assert [answer.result.arrays["probabilities"] for answer in answers] == [1, 1, 1]


async def test_a_row_without_an_answer_leaves_the_request_without_one(tmp_path: Path) -> None:
    broken, second = FakeQueue(), FakeQueue("z")
    both = resolve(
        tensors(tmp_path, *TWICE),
        tensor_model("first", queue=broken),
        tensor_model("second", outputs={"z": (-1, 3)}, queue=second),
    )
    broken.error = EngineError("it failed.")
    with pytest.raises(EngineError):
        await run(both, x=np.zeros((2, 3), np.float32))
    assert not second.rows


async def test_sizes_that_graphs_leave_open_are_checked_when_they_are_known(tmp_path: Path) -> None:
    first = tensor_model("first", {"x": (-1, -1)}, {"y": (-1, -1)})
    both = resolve(tensors(tmp_path, *TWICE), first, tensor_model("second"))
    with pytest.raises(InvalidRequestError) as refusal:
        await run(both, x=np.zeros((2, 5), np.float32))
    assert refusal.value.reason == "INPUT_MISMATCH"


def test_a_full_first_step_refuses_before_anything_is_read(tmp_path: Path) -> None:
    full = FakeQueue()
    full.error = OverloadedError("full.", retry_after_seconds=1)
    both = resolve(tensors(tmp_path, *TWICE), tensor_model("first", queue=full), tensor_model("second"))
    with pytest.raises(OverloadedError):
        both.batcher.check_room(1, **TURN)


def test_what_lies_between_two_steps_is_counted(tmp_path: Path) -> None:
    first, second = tensor_model("first"), tensor_model("second")
    both = resolve(tensors(tmp_path, *TWICE), first, second)
    assert tensor_steps.between_bytes(both, 5) == 2 * 5 * 3 * 4
    assert tensor_steps.between_bytes(first, 5) == 0


def test_who_has_found_a_pipeline_holds_all_of_its_steps(tmp_path: Path) -> None:
    first, second, other = (tensor_model(name) for name in ("first", "second", "other"))
    declaration = tensors(tmp_path, *TWICE)
    both = resolve(declaration, first, second, other)
    both.leases.take()
    assert [len(one.leases) for one in (declaration, first, second, other)] == [1, 1, 1, 0]
    both.leases.give_back()
    assert [len(one.leases) for one in (declaration, first, second)] == [0, 0, 0]


def test_a_pipeline_of_the_newest_follows_it_and_one_of_a_version_does_not(tmp_path: Path) -> None:
    newest = tensors(tmp_path, *TWICE)
    pinned = declared(declare(tmp_path, "pinned", "TASK_TENSOR", {"model": "first", "version": 1}, TWICE[1]))
    old, new = tensor_model("first"), replace(tensor_model("first"), version=2, leases=Leases())
    catalog = steps.resolved(Catalog([newest, pinned, old, new, tensor_model("second")], {}), NONE)
    catalog.get("both").leases.take()
    assert (len(old.leases), len(new.leases)) == (0, 1)
    catalog.get("pinned").leases.take()
    assert (len(old.leases), len(new.leases)) == (1, 1)


@pytest.mark.parametrize(
    ("second", "step", "says"),
    [
        (
            tensor_model("second", {"x": (-1, 4)}),
            TWICE[1],
            r"steps\[1\].inputs` has 'x', FP32 \[-1, 4\], come from",
        ),
        (tensor_model("second", {"x": (-1, 3, 1)}), TWICE[1], r"has 'x', FP32 \[-1, 3, 1\], come from 'y'"),
        (tensor_model("second", x="INT32"), TWICE[1], r"has 'x', INT32 \[-1, 3\], come from 'y'"),
        (tensor_model("second"), "second", "must say where 'x', .* 'first' gives no 'x', but y"),
        (
            tensor_model("second"),
            {"model": "second", "inputs": {"x": "q"}},
            "'first' gives no 'q', but y",
        ),
        (
            tensor_model("second"),
            {"model": "second", "inputs": {"x": "y", "w": "y"}},
            "has 'w', which model 'second' does not take",
        ),
        (tensor_model("second", batched=False), TWICE[1], "only one has a row for each image"),
        (tensor_model("second", {}), "second", "takes nothing of the step before it"),
        (tensor_model("other"), TWICE[1], r"steps\[1\].model` is 'second': there is no model 'second'"),
        (tensor_model("second"), {**TWICE[1], "version": 9}, "has no version 9"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_named(
    second: ServedModel, step: Any, says: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=says):
        raise AssertionError(why_not(tensors(tmp_path, "first", step), tensor_model("first"), second))


def test_a_step_that_is_a_pipeline_is_not_found(tmp_path: Path) -> None:
    inner = tensors(tmp_path, *TWICE)
    outer = declared(declare(tmp_path, "outer", "TASK_TENSOR", "both", TWICE[1]))
    assert "there is no model 'both'" in why_not(outer, inner, tensor_model("first"), tensor_model("second"))


def test_a_detecting_pipeline_is_its_detector_under_another_name(tmp_path: Path) -> None:
    detector = served_model("boxes", task=Task.DETECT, batcher=FakeQueue())
    detector.manifest.detect.max_detections = 7
    classifier = served_model("kinds")
    declaration = declared(declare(tmp_path, "both", "TASK_DETECT", "boxes", "kinds", description="Both."))
    both = resolve(declaration, detector, classifier)
    assert (both.task, both.manifest.name, both.manifest.description) == (Task.DETECT, "both", "Both.")
    assert both.manifest.detect.max_detections == 7
    assert [step.model for step in both.manifest.pipeline.steps] == ["boxes", "kinds"]
    assert (len(both.batcher), both.memory.total_bytes) == (0, 0)
    both.leases.take()
    assert (len(detector.leases), len(classifier.leases)) == (1, 1)
    assert "steps[0].model` is 'kinds', which serves classify, not detect" in why_not(
        declared(declare(tmp_path, "reversed", "TASK_DETECT", "kinds", "boxes")), detector, classifier
    )


def test_refusals_are_logged_when_they_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipeline, first, second = tensors(tmp_path, *TWICE), tensor_model("first"), tensor_model("second")
    told = []
    catalog = NONE
    for models in ((), (), (first,), (first, second), (first, second), ()):
        catalog = steps.resolved(Catalog([pipeline, *models], {}), catalog)
        out = capsys.readouterr().out
        told.append([word for word in ("model_refused", "pipeline_served") if word in out])
    assert told == [["model_refused"], [], ["model_refused"], ["pipeline_served"], [], ["model_refused"]]


BOTH = [{"model": "a"}, {"model": "b"}]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"task": "TASK_CLASSIFY"}, "task` must be TASK_DETECT or TASK_TENSOR"),
        ({"labels": ["a"]}, "labels` must not be set beside `pipeline`"),
        ({"sha256": "0" * 64}, "sha256` must not be set"),
        ({"format_version": 2}, "format_version` must be 1"),
        ({"pipeline": {}}, "pipeline.steps` must be 2 to 8"),
        ({"pipeline": {"steps": BOTH[:1]}}, "pipeline.steps` must be 2 to 8"),
        ({"pipeline": {"steps": BOTH[:1] * 9}}, "pipeline.steps` must be 2 to 8"),
        ({"task": "TASK_DETECT", "pipeline": {"steps": BOTH[:1] * 3}}, "must be a detector and a classifier"),
        (
            {"pipeline": {"steps": [{"model": "../a"}, BOTH[0]]}},
            r"pipeline.steps\[0\].model` must be letters",
        ),
        ({"pipeline": {"steps": [BOTH[0], {"model": "b", "version": -1}]}}, r"steps\[1\].version` must be"),
        (
            {"pipeline": {"steps": [{"model": "a", "inputs": {"x": "y"}}, BOTH[1]]}},
            r"steps\[0\].inputs` must be empty",
        ),
        (
            {"pipeline": {"steps": [BOTH[0], {"model": "b", "inputs": {"x": "y" * 60_000}}]}},
            r"steps\[1\].inputs` must be names",
        ),
        ({"name": "other"}, "name` is 'other', but its folder is called 'both'"),
    ],
)
def test_a_manifest_that_cannot_be_is_refused_by_file_and_field(
    fields: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match=f"manifest.json: field `.*{says}"):
        tensors(tmp_path, *BOTH, **fields)


def test_a_graph_beside_a_pipeline_is_refused(tmp_path: Path) -> None:
    folder = declare(tmp_path, "both", "TASK_TENSOR", *BOTH)
    (folder / "model.onnx").write_bytes(b"graph")
    with pytest.raises(BundleError, match="is beside a manifest with `pipeline`"):
        BundleFolder("both", 1, folder).read()


def test_over_the_open_inference_protocol_a_pipeline_is_an_ensemble(tmp_path: Path) -> None:
    second = {"model": "second", "version": 1, "inputs": {"x": "y"}}
    pipeline = resolve(tensors(tmp_path, "first", second), tensor_model("first"), tensor_model("second"))
    told = inference_replies.config(pipeline, PROVIDER, 7)
    assert (told.name, told.platform, told.backend, told.default_model_filename) == (
        "both",
        "ensemble",
        "",
        "",
    )
    assert (told.max_batch_size, len(told.instance_group), told.HasField("dynamic_batching")) == (7, 0, False)
    assert [
        (step.model_name, step.model_version, dict(step.input_map), dict(step.output_map))
        for step in told.ensemble_scheduling.step
    ] == [("first", -1, {"x": "x"}, {"y": "0.y"}), ("second", 1, {"x": "0.y"}, {"y": "y"})]
    assert inference_replies.metadata(pipeline, [1]).platform == "ensemble"
    alone = inference_replies.config(tensor_model("first"), PROVIDER, 7)
    assert (alone.platform, alone.default_model_filename) == ("onnxruntime_onnx", "model.onnx")
    assert not alone.HasField("ensemble_scheduling")


def test_what_a_pipeline_of_tensors_costs_is_not_its_first_steps(tmp_path: Path) -> None:
    first, second = tensor_model("first"), tensor_model("second")
    pipeline = resolve(tensors(tmp_path, *TWICE), first, second)
    execution = replies.model_message(pipeline, EVERY_VERSION, PROVIDER, "1").execution
    assert (execution.images_per_second, execution.lone_image_us) == (0, 0)
    execution = replies.model_message(first, EVERY_VERSION, PROVIDER, "1").execution
    assert execution.images_per_second == pytest.approx(123.4)
    assert banner._row(pipeline)[-1] == "-"

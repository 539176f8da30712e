import copy
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs
from tests import colour_bundles, gpu_stand_in
from tests.colour_bundles import SIDE
from tests.gpu_stand_in import StandInRuntime
from tests.signers import Signer

from retinue_server.batching.tickets import Stop
from retinue_server.bundle import manifest as manifests
from retinue_server.bundle.repository import scan
from retinue_server.feeds import Feeds
from retinue_server.pipeline import Pipeline
from retinue_server.postprocess import for_manifest
from retinue_server.results import Answer, ClassifyOptions, MaskFormat, Options, SegmentOptions, Work
from retinue_server.runtime import captured as captured_module
from retinue_server.runtime.captured import CaptureGate
from retinue_server.runtime.session import Machine, Session, Threads
from retinue_server.vision.decode import open_raw

COLOURS = np.zeros((3, SIDE, SIDE, 3), np.uint8)
for channel in range(3):
    COLOURS[channel, ..., channel] = 255
# A lone image, a few, and the largest batch of those that were measured.
MEASURED = (1, 2, 3, 4)
SIZES = (1, 3, 4)


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> StandInRuntime:
    return gpu_stand_in.install(monkeypatch)


def prepared(
    bundle: Path, *, devices: Sequence[int] = (0,), instances: int = 2, cuda_graphs: str = "auto"
) -> tuple[Session, tuple[int, ...]]:
    manifest = manifests.read(bundle)
    machine = Machine(
        gpu_stand_in.provider(devices),
        Threads(instances, 1),
        cuda_graphs=cuda_graphs,  # type: ignore[arg-type]
    )
    session = Session(bundle / "model.onnx", manifest, machine)
    return session, session.prepare(MEASURED, Feeds(manifest).typical)


def new_slab(session: Session) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    assert session.new_slab is not None
    return session.new_slab()


def classes(session: Session, slab: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], rows: int) -> list[int]:
    found: list[int] = session.run(slab[:rows], {})["probabilities"].argmax(axis=1).tolist()
    return found


@pytest.mark.parametrize("cuda_graphs", ["auto", "off"])
def test_every_session_reads_the_copy_of_a_graph_that_was_checked(
    cuda_graphs: str, runtime: StandInRuntime, tmp_path: Path
) -> None:
    signer = Signer()
    models = tmp_path / "models"
    signer.sign(colour_bundles.classifier(models))
    (bundle,) = scan(models, lambda: frozenset({signer.raw}))
    manifest = bundle.read()
    machine = Machine(
        gpu_stand_in.provider((0,)),
        Threads(2, 1),
        cuda_graphs=cuda_graphs,  # type: ignore[arg-type]
    )
    with bundle.graph(manifest) as graph:
        bundle.model_path.write_bytes(b"another")
        session = Session(bundle.model_path, manifest, machine, graph)
        sizes = session.prepare(MEASURED, Feeds(manifest).typical)
    slab = new_slab(session)
    slab[:3] = COLOURS
    for rows in sizes:
        assert classes(session, slab, rows)[:3] == [0, 1, 2][:rows]


def test_a_network_is_captured_for_every_slab_and_size(runtime: StandInRuntime, tmp_path: Path) -> None:
    session, sizes = prepared(colour_bundles.classifier(tmp_path))
    assert sizes == SIZES
    captured = [one for one in runtime.sessions if one.is_captured]
    assert {one.chosen["user_compute_stream"] for one in captured} <= {*map(str, runtime.cuda.streams)}
    # All that will be run has been, before the first caller comes, each size by a session of its own.
    assert [{*one.rows} for one in captured] == [{rows} for rows in SIZES]
    first, second = new_slab(session), new_slab(session)
    assert first.shape == second.shape == (4, SIDE, SIDE, 3)
    first[:3], second[:3] = COLOURS, COLOURS[::-1]
    for _ in range(2):
        assert classes(session, first, 1) == [0]
        assert classes(session, second, 3) == [2, 1, 0]
        assert classes(session, first, 4)[:3] == [0, 1, 2]
    # The session that the network was measured with is gone.
    assert session._gpu is not None
    assert session._gpu.captured
    assert session._gpu._first is None


def test_batches_are_copied_from_and_to_page_locked_memory_once(
    runtime: StandInRuntime, tmp_path: Path
) -> None:
    session, _ = prepared(colour_bundles.locator(tmp_path))
    slab = new_slab(session)
    runtime.cuda.copies.clear()
    session.run(slab[:3], {})
    assert runtime.cuda.copies == [("to device", 0, True), ("to host", 0, True)]
    runtime.cuda.copies.clear()
    slab[:3] = COLOURS
    heatmap = session.run(slab[:4], {}, ["heatmap"])["heatmap"]
    np.testing.assert_allclose(heatmap[:3], 170)
    assert [where for where, _, _ in runtime.cuda.copies] == ["to device", "to host", "to host"]


def test_a_segmenter_is_captured_too(runtime: StandInRuntime, tmp_path: Path) -> None:
    session, sizes = prepared(colour_bundles.segmenter(tmp_path))
    assert sizes == SIZES
    slab = new_slab(session)
    slab[:3] = COLOURS
    assert session.run(slab[:4], {})["class_map"][:3, 0, 0].tolist() == [0, 1, 2]


def test_two_threads_run_batches_of_theirs_at_once(runtime: StandInRuntime, tmp_path: Path) -> None:
    session, _ = prepared(colour_bundles.classifier(tmp_path))

    def run(slab: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bool:
        noise = np.random.default_rng(slab.ctypes.data)
        for _ in range(100):
            order = noise.integers(0, 3, 4)
            slab[:] = COLOURS[order]
            if classes(session, slab, 4) != order.tolist():
                return False
        return True

    with ThreadPoolExecutor(2) as threads:
        assert all(threads.map(run, [new_slab(session), new_slab(session)]))


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (colour_bundles.locator, ClassifyOptions(3, 0, heatmap=True, max_picture_bytes=9999)),
        *(
            (colour_bundles.segmenter, SegmentOptions(how, False, None, max_picture_bytes=9999))
            for how in MaskFormat
        ),
    ],
)
def test_what_callers_get_is_no_part_of_a_slab(
    make: Callable[[Path], Path], options: Options, runtime: StandInRuntime, tmp_path: Path
) -> None:
    bundle = make(tmp_path)
    session, sizes = prepared(bundle)
    manifest = manifests.read(bundle)
    pipeline = Pipeline(
        session,
        manifests.input_spec(manifest),
        Feeds(manifest),
        for_manifest(manifest),
        batch_sizes=sizes,
        decoders=Serial(),
        new_slab=session.new_slab,
    )
    images = [open_raw(one.tobytes(), SIDE, SIDE, "RGB", max_pixels=SIDE * SIDE) for one in COLOURS]
    answers = pipeline.run([Work(image, options) for image in images], Stop())
    results = [answer.result for answer in answers if isinstance(answer, Answer)]
    assert len(results) == 3
    before = copy.deepcopy(results)
    # The next batch.
    for array in runtime.cuda.page_locked_arrays:
        array[...] = 77
    assert results == before


class Serial(Executor):
    """Does what it is given at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def test_slabs_are_spread_over_the_gpus(runtime: StandInRuntime, tmp_path: Path) -> None:
    session, _ = prepared(colour_bundles.classifier(tmp_path), devices=(1, 3), instances=4)
    assert {one.device for one in runtime.sessions if one.is_captured} == {1, 3}
    for device in (1, 3, 1, 3):
        slab = new_slab(session)
        slab[:3] = COLOURS
        runtime.cuda.copies.clear()
        assert classes(session, slab, 4)[:3] == [0, 1, 2]
        assert {of for _, of, _ in runtime.cuda.copies} == {device}


@pytest.mark.parametrize(
    ("make", "change", "reason"),
    [
        (colour_bundles.classifier, {"captures": False}, "cannot use the graph capture feature"),
        (colour_bundles.classifier, {"breaks_in_capture": True}, "operation not permitted"),
        (colour_bundles.segmenter, {"replays_first_answers": True}, "gives other class_map than the network"),
        (
            colour_bundles.locator,
            {"replays_first_answers": True},
            "gives other probabilities than the network",
        ),
    ],
)
def test_a_network_that_cannot_be_captured_runs_all_the_same(
    make: Callable[[Path], Path],
    change: dict[str, bool],
    reason: str,
    runtime: StandInRuntime,
    tmp_path: Path,
) -> None:
    for name, value in change.items():
        setattr(runtime, name, value)
    with capture_logs() as logged:
        session, sizes = prepared(make(tmp_path))
    (event,) = logged
    assert event["event"] == "model_not_captured"
    assert reason in event["reason"]
    # What a broken capture has begun is over.
    assert runtime.cuda.captures_ended == (0 if change == {"captures": False} else len(SIZES))
    assert sizes == SIZES
    slab = new_slab(session)
    slab[:3] = COLOURS
    (answers,) = session.run(slab[:4], {}).values()
    assert len(answers) == 4


@pytest.mark.parametrize("devices", [(0,), (0, 2)])
def test_a_session_that_is_not_captured_runs_one_size_only(
    devices: Sequence[int], runtime: StandInRuntime, tmp_path: Path
) -> None:
    session, sizes = prepared(colour_bundles.detector(tmp_path), devices=devices, instances=4)
    assert sizes == SIZES
    assert not any(one.is_captured for one in runtime.sessions)
    for _ in range(4):
        slab = new_slab(session)
        slab[:3] = COLOURS
        for rows in (1, 4, 1):
            found = session.run(slab[:rows], {})
            assert found["classes"][:3, 0].tolist() == [0, 1, 2][:rows]
    assert [{*one.rows} for one in runtime.sessions] == [{4}, {3}, {1}] * len(devices)
    assert sorted(one.device for one in runtime.sessions) == sorted(devices * 3)
    # The one that was measured gives back what that took.
    assert runtime.sessions[0].shrunk == "gpu:0"


@pytest.mark.parametrize(("instances", "at_once"), [(1, 1), (2, 1), (3, 2)])
def test_one_of_a_gpus_batches_is_filled_while_the_others_run(
    instances: int, at_once: int, runtime: StandInRuntime, tmp_path: Path
) -> None:
    session, _ = prepared(colour_bundles.detector(tmp_path), instances=instances)
    slabs = [new_slab(session) for _ in range(instances)]
    runtime.gate.clear()
    with ThreadPoolExecutor(instances) as threads:
        runs = [threads.submit(session.run, slab, {}) for slab in slabs]
        for _ in range(at_once):
            assert runtime.begun.acquire(timeout=10)
        assert not runtime.begun.acquire(timeout=0.1)
        runtime.gate.set()
        for run in runs:
            run.result()


def test_what_else_a_network_takes_comes_with_the_batch(runtime: StandInRuntime, tmp_path: Path) -> None:
    bundle = colour_bundles.region_detector(tmp_path)
    session, _ = prepared(bundle)
    slab = new_slab(session)
    slab[:3] = COLOURS
    feeds = dict(Feeds(manifests.read(bundle)).typical(4))
    feeds["score_threshold"] = np.array([0.5, 2, 0.5, 2], np.float32)
    found = session.run(slab, feeds, ["masks"])
    assert (found["scores"] > 0).any(axis=1).tolist() == [True, False, True, False]
    assert found["masks"].shape == (4, 3, 8, 8)


def test_nothing_is_captured_where_that_is_turned_off(runtime: StandInRuntime, tmp_path: Path) -> None:
    session, sizes = prepared(colour_bundles.classifier(tmp_path), cuda_graphs="off")
    assert sizes == SIZES
    assert not any(one.is_captured for one in runtime.sessions)
    # Its slabs are page-locked all the same.
    assert any(new_slab(session) is one for one in runtime.cuda.page_locked_arrays)


def test_a_batch_that_hangs_costs_a_capture_and_not_what_comes_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured_module, "_LONGEST_WAIT_SECONDS", 0.01)
    gate = CaptureGate()
    with gate.running():
        with pytest.raises(TimeoutError), gate.capturing():
            raise AssertionError
        with gate.running():
            pass
    with gate.capturing():
        pass


def test_a_capture_waits_for_what_runs_and_what_comes_waits_for_the_capture() -> None:
    gate = CaptureGate()
    order: list[str] = []
    captured = threading.Event()

    def capture() -> None:
        with gate.capturing():
            order.append("captured")
        captured.set()

    def run() -> None:
        with gate.running():
            order.append("ran")

    with ThreadPoolExecutor(2) as threads:
        with gate.running(), gate.running():
            capturing = threads.submit(capture)
            while not gate._capturing:
                pass
            running = threads.submit(run)
            assert not captured.wait(0.05)
            order.append("done")
        capturing.result(10)
        running.result(10)
    assert order == ["done", "captured", "ran"]

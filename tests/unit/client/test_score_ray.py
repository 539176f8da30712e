"""What workers of a Ray cluster do and what is made of it, without a cluster."""

import asyncio
import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest

from retinue_client._errors import ServerError
from retinue_client._score import ray_scorer, ray_worker
from retinue_client._score.account import Account
from retinue_client._score.cores import take_cores
from retinue_client._score.disk import Disk
from retinue_client._score.journal import Journal
from retinue_client._score.outputs.forms import Form, output_of
from retinue_client._score.ray_scorer import RayScorer, cut
from retinue_client._score.ray_worker import EnginePlan, PartPlan, PartScorer, facts_of, find_model
from retinue_client._score.sample import Sample
from retinue_client._score.scorer import ScoreOptions
from retinue_client._score.sources.entry import Entry

from .score_results import classification
from .test_score_local import FakeEngine

MODEL = {"name": "a-classifier", "version": 3, "sha256": "ab" * 32}


class Numbers:
    """A source of so many images, whose content is their number."""

    name = "numbers"

    def __init__(self, count):
        self._count = count

    def entries(self, after):
        for number in range(0 if after is None else after + 1, self._count):
            yield Entry(f"{number:03}", number, 3, b"bad" if number == 7 else str(number).encode())

    def count(self):
        return self._count


@pytest.fixture
def plan(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_worker, "find_engine", lambda arguments, models: FakeEngine())
    engine = EnginePlan(ScoreOptions("classify", {"model": "a-classifier", "version": None}), (), 0)
    return PartPlan(engine, MODEL, Numbers(23), tmp_path, Form.PARQUET, {"retinue.task": "classify"})


def batch(parts):
    return {name: np.array([part[name] for part in parts]) for name in ("part", "first_row", "rows", "after")}


def parts_of(source, **begin):
    return list(cut(source, 5, **({"after": None, "first_part": 0, "first_row": 0} | begin)))


def test_a_source_is_cut_into_the_parts_that_a_job_of_one_process_makes():
    parts = parts_of(Numbers(23))
    assert [part["rows"] for part in parts] == [5, 5, 5, 5, 3]
    assert [json.loads(part["after"]) for part in parts] == [None, 4, 9, 14, 19]
    assert all(one["first_row"] + one["rows"] == two["first_row"] for one, two in pairwise(parts))
    assert parts_of(Numbers(23), after=9, first_part=2, first_row=10) == parts[2:]
    assert parts_of(Numbers(0)) == []


def test_workers_leave_parts_aside_and_the_job_gives_them_their_names_in_order(plan, tmp_path):
    parts = parts_of(plan.source)
    worker = PartScorer(plan)
    made = [json.loads(text) for text in worker(batch(parts))["made"]]
    assert not list(tmp_path.glob("part-*"))
    # One that was taken for dead made a part as well.
    again = json.loads(PartScorer(plan)(batch(parts[1:2]))["made"][0])
    assert again["aside"] != made[1]["aside"]
    disk, account = Disk(tmp_path), Account()
    journal = Journal.begin(disk, {}, MODEL)
    output = output_of(Form.PARQUET, "classify", plan.metadata)
    for one in made:
        ray_scorer._commit(one, journal, output, account)
    rows = pq.read_table(tmp_path).to_pylist()
    assert [row["path"] for row in rows] == [f"{number:03}" for number in range(23)]
    assert [row["path"] for row in rows if row["error_reason"]] == ["007"]
    assert (account.images, account.failed, account.earlier_images) == (23, 1, 0)
    read = Journal.read(disk, lambda record: None)
    assert (read.parts, read.rows, read.last.cursor, dict(read.reasons)) == (
        5,
        23,
        22,
        {"IMAGE_UNDECODABLE": 1},
    )


def test_the_samples_of_workers_become_one(plan, tmp_path):
    plan = replace(plan, source=Numbers(60), with_sample=True)
    workers, sample = (PartScorer(plan), PartScorer(plan)), Sample()
    journal = Journal.begin(Disk(tmp_path), {}, MODEL)
    output = output_of(Form.PARQUET, "classify", plan.metadata)
    for number, part in enumerate(parts_of(plan.source)):
        (made,) = workers[number % 2](batch([part]))["made"]
        ray_scorer._commit(json.loads(made), journal, output, Account(), sample)
    alone = Sample()
    for entry in Numbers(60).entries(None):
        if entry.content != b"bad":
            alone.offer(entry.key, entry.content, classification(("cat", 0.5)))
    assert [one.key for one in sample.random] == [one.key for one in alone.random]
    assert [one.key for one in Sample.load(Disk(tmp_path)).random] == [one.key for one in sample.random]


def test_a_worker_finds_the_model_and_says_why_it_cannot(plan, monkeypatch):
    assert facts_of(find_model(plan.engine)) == MODEL
    unsound = ServerError("There is no engine.")

    class Broken(FakeEngine):
        async def start(self):
            raise unsound

    monkeypatch.setattr(ray_worker, "find_engine", lambda arguments, models: Broken())
    assert find_model(plan.engine) == "There is no engine."
    (made,) = PartScorer(plan)(batch(parts_of(plan.source)[:1]))["made"]
    assert json.loads(made) == {"failure": "There is no engine."}


def test_a_worker_with_another_model_makes_nothing(plan, tmp_path):
    other = PartPlan(plan.engine, {**MODEL, "version": 4}, plan.source, plan.out, plan.form, plan.metadata)
    (made,) = PartScorer(other)(batch(parts_of(plan.source)[:1]))["made"]
    assert "give all machines the same models folder" in json.loads(made)["failure"]
    assert list(tmp_path.iterdir()) == []


def test_who_only_looks_for_the_model_takes_no_cores(plan, monkeypatch):
    taken = []
    monkeypatch.setattr(ray_worker, "take_cores", taken.append)
    assert facts_of(find_model(replace(plan.engine, cores=2))) == MODEL
    assert taken == []
    PartScorer(replace(plan, engine=replace(plan.engine, cores=2)))
    assert taken == [2]


def test_a_worker_that_dies_while_it_looks_for_the_model_is_told(plan, monkeypatch):
    class RayError(Exception):
        pass

    def died(_reference):
        raise RayError("The worker died.\nOut of memory.")

    remote = SimpleNamespace(remote=lambda plan: None)
    ray = SimpleNamespace(
        is_initialized=lambda: True,
        remote=lambda **_options: lambda function: remote,
        get=died,
        exceptions=SimpleNamespace(RayError=RayError),
    )
    monkeypatch.setattr(ray_scorer, "import_module", lambda name: ray)
    scorer = RayScorer(SimpleNamespace(cores=1, gpus=0), plan.engine)
    with pytest.raises(ServerError, match=r"The Ray job failed: Out of memory\."):
        asyncio.run(scorer.find_model())


def test_a_part_that_lacks_rows_is_not_made(plan, tmp_path):
    parts = parts_of(plan.source)
    worker = PartScorer(replace(plan, source=Numbers(12)))
    made = [json.loads(text) for text in worker(batch(parts[1:4]))["made"]]
    assert made[0]["record"]["rows"] == 5
    assert "A part of 5 rows was cut from the source, of which a worker finds 2:" in made[1]["failure"]
    assert "finds 0:" in made[2]["failure"]


def test_without_ray_it_is_said_what_to_install(plan, monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(ray_scorer, "import_module", missing)
    with pytest.raises(ServerError, match=r'pip install "retinue-client\[ray\]"'):
        RayScorer(SimpleNamespace(), plan.engine)


def test_ray_is_imported_only_where_it_is_asked_for():
    program = "import sys, retinue_client.cli._app; sys.exit(any(name.split('.')[0] == 'ray' for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_workers_of_a_machine_take_different_cores(tmp_path):
    allowed = os.sched_getaffinity(0)
    if len(allowed) < 2:
        pytest.skip("there is one core")
    program = (
        "import sys, pathlib; from retinue_client._score.cores import take_cores; "
        "print(take_cores(1, pathlib.Path(sys.argv[1])), flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "cores")]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(len(allowed) + 1)
    ]
    taken = [json.loads(worker.stdout.readline()) for worker in workers]
    for worker in workers:
        worker.communicate("")
    # There is one worker more than there are cores.
    assert sorted(core for cores in taken for core in cores) == sorted(allowed)
    assert take_cores(len(allowed), tmp_path / "cores") == []
    assert os.sched_getaffinity(0) == allowed

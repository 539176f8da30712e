"""What a job's rows and answers add up to, in one run or in several."""

import json
import random
import re
import threading
from dataclasses import fields
from pathlib import Path

import pytest
from tests.unit.client.score_results import DETECTIONS, MODEL, SEGMENTATION, classification

from retinue_client import ImageError
from retinue_client._classification import Classification, ClassScore
from retinue_client._score.account import Account
from retinue_client._score.disk import Disk
from retinue_client._score.document import JobFacts, document, write_summary
from retinue_client._score.rows import row_of
from retinue_client._score.summary import SCORE_BINS, STAGES, Summary
from retinue_client._timing import Timing
from retinue_client.cli._progress_bar import Moment

TIMING = Timing(
    decode_us=2000, queue_us=1000, inference_us=8000, postprocess_us=500, total_us=12000, batch_size=4
)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def row(outcome, path="a.jpg"):
    return row_of(path, outcome, (64, 48))


def summary_of(*rows):
    summary = Summary()
    summary.add_rows(rows)
    return summary


def failure(reason="IMAGE_EMPTY", message="No bytes."):
    return ImageError(message, reason=reason)


def test_a_classifiers_rows_count_for_their_best_class_and_its_score():
    summary = summary_of(
        row(classification(("cat", 0.72), ("dog", 0.2))),
        row(classification(("dog", 1.0))),
        row(classification()),
    )
    assert dict(summary.classes) == {(0, "cat"): 1, (0, "dog"): 1}
    assert (summary.scores[14], summary.scores[SCORE_BINS - 1], sum(summary.scores)) == (1, 1, 2)
    assert (summary.scored, summary.empty, dict(summary.versions)) == (3, 1, {3: 3})


def test_a_detectors_rows_count_for_each_object():
    summary = summary_of(row(DETECTIONS), row(DETECTIONS))
    assert dict(summary.classes) == {(2, "cat"): 2, (0, "bag"): 2}
    assert (summary.scores[18], summary.scores[10]) == (2, 2)


def test_a_segmenters_rows_count_images_and_pixels():
    summary = summary_of(row(SEGMENTATION), row(SEGMENTATION))
    assert dict(summary.classes) == {(0, "background"): 2, (1, "cat"): 2}
    assert dict(summary.pixels) == {(0, "background"): 144, (1, "cat"): 48}
    assert sum(summary.scores) == 0


def test_failures_count_by_reason_with_their_first_examples():
    rows = [row(failure(), f"{number}.jpg") for number in range(10)]
    summary = summary_of(*rows, row(failure("FILE_FORBIDDEN", "No."), "secret.jpg"))
    assert (summary.failed, dict(summary.reasons)) == (11, {"IMAGE_EMPTY": 10, "FILE_FORBIDDEN": 1})
    assert summary.examples["IMAGE_EMPTY"] == [(f"{number}.jpg", "No bytes.") for number in range(5)]
    assert summary.examples["FILE_FORBIDDEN"] == [("secret.jpg", "No.")]


def test_signatures_of_urls_are_not_among_the_examples():
    refused = failure("FILE_UNREADABLE", "InvalidURL: https://me:word@host/a?x=word")
    summary = summary_of(row(refused, "https://me:word@host/a.jpg?x=word"))
    assert "word" not in json.dumps(summary.state())


def test_hostile_names_and_messages_are_bounded_and_plain():
    summary = summary_of(
        row(failure("X" * 10_000, "\x1b[2J" + "m" * 1_000_000), "p" * 1_000_000),
        row(classification(("l" * 1_000_000, 0.5))),
    )
    assert len(json.dumps(summary.state())) < 10_000
    ((_, message),) = next(iter(summary.examples.values()))
    assert message.startswith("\\x1b[2J")


def test_classes_and_reasons_without_end_take_bounded_memory():
    summary = Summary()
    for number in range(10_000):
        summary.add_rows([row(classification((f"class {number}", 0.5))), row(failure(f"REASON_{number}"))])
    assert len(summary.classes) == 4096
    assert summary.classes.total() + summary.other_classes == 10_000
    assert len(summary.reasons) == 65
    assert summary.reasons.total() == 10_000


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -1.0, 2.0])
def test_scores_out_of_range_count_at_an_end(score):
    assert sum(summary_of(row(classification(("cat", score)))).scores) == 1


def test_times_are_shared_out_to_stages():
    account = Account()
    results = [Classification((), "m", 1, TIMING)] * 3
    account.add_answer(0.25, 0.020, [*results, failure()])
    account.add_rows([row(result) for result in results] + [row(failure())])
    summary = account.total()
    means = {stage: summary.mean_ms(stage) for stage in STAGES}
    assert means == {
        "reading": 0.0,
        "pace": pytest.approx(250),
        "transport": pytest.approx(8 / 4),
        "queue": pytest.approx(1),
        "decoding": pytest.approx(2),
        "inference": pytest.approx(8 / 4),
        "postprocessing": pytest.approx(0.5),
        "writing": 0.0,
    }
    assert summary.batch_sizes / summary.timed == 4
    assert summary.latencies.percentile(0.5) == pytest.approx(0.02, rel=0.01)


def test_the_slowest_stage_is_one_in_which_something_is_done():
    summary = Summary()
    assert summary.slowest_stage() is None
    summary.add_answer(100.0, 0.030, [Classification((), "m", 1, TIMING)])
    assert summary.slowest_stage() == "transport"


def test_time_in_a_stage_counts_for_the_part_that_is_made_when_it_ends():
    clock = Clock()
    account = Account(clock)
    with account.timing("reading"):
        clock.now += 1
        account.add_rows([row(failure())])
        first = account.close_part()
        clock.now += 2
    second = account.close_part()
    assert (first["stages"]["reading"], second["stages"]["reading"]) == (0.0, 3.0)
    assert (first["seconds"], second["seconds"]) == (1.0, 2.0)


def _rows_of_a_job(dice):
    made = []
    for number in range(200):
        if dice.random() < 0.2:
            made.append(row(failure(f"REASON_{dice.randrange(3)}"), f"{number}.jpg"))
        else:
            made.append(row(classification((f"class {dice.randrange(9)}", dice.random())), f"{number}.jpg"))
    return made


@pytest.mark.parametrize("seed", range(5))
def test_a_job_that_was_killed_again_and_again_tells_of_the_whole(seed):
    dice = random.Random(seed)
    rows = _rows_of_a_job(dice)
    parts = [rows[start : start + 20] for start in range(0, len(rows), 20)]
    uninterrupted = Account(Clock())
    for part in parts:
        uninterrupted.add_rows(part)
        uninterrupted.close_part()
    journal: list[str] = []
    while len(journal) < len(parts):
        account = Account(Clock())
        for line in journal:
            account.resume(json.loads(line))
        assert account.earlier_images == 20 * len(journal)
        for part in parts[len(journal) :]:
            account.add_rows(part)
            if dice.random() < 0.3:
                break  # killed before the part is in the journal
            journal.append(json.dumps(account.close_part()))
    account = Account(Clock())
    for line in journal:
        account.resume(json.loads(line))
    assert account.total().state() == uninterrupted.total().state()


@pytest.mark.parametrize("broken", [{}, {"scored": 1}, {"scored": "x"}, [], None])
def test_what_is_no_state_is_refused(broken):
    with pytest.raises(ValueError, match="this is no summary"):
        Summary.from_state(broken)


def test_a_state_with_something_missing_is_refused():
    whole = summary_of(row(DETECTIONS)).state()
    for name in whole:
        with pytest.raises(ValueError, match="this is no summary"):
            Summary.from_state({key: value for key, value in whole.items() if key != name})


def test_the_document_says_what_a_program_wants_to_know():
    account = Account()
    account.add_answer(0.0, 0.02, [Classification((ClassScore(0, "cat", 0.9),), "m", 3, TIMING)])
    account.add_rows([row(classification(("cat", 0.9))), row(failure(), "b.jpg")])
    account.close_part()
    facts = JobFacts("classify", "photos", "out", {"top_k": 1}, MODEL, "1.2.3")
    values = json.loads(json.dumps(document(facts, account.total()), allow_nan=False))
    assert (values["images"], values["scored"], values["failed"]) == (2, 1, 1)
    assert (values["model"], values["versions"], values["task"]) == ("a-model", {"3": 1}, "classify")
    assert values["errors"] == [
        {"reason": "IMAGE_EMPTY", "count": 1, "examples": [{"path": "b.jpg", "message": "No bytes."}]}
    ]
    assert values["classes"] == [{"class_id": 0, "label": "cat", "count": 1}]
    assert values["latency_ms"]["p99"] == pytest.approx(20, rel=0.01)
    assert values["slowest_stage"] == "transport"


def test_names_that_are_no_text_are_escapes_in_the_document(tmp_path):
    facts = JobFacts("classify", "b\udcff", "größe", {}, MODEL, "1.2.3")
    said = write_summary(Disk(tmp_path), facts, Summary())
    written = (tmp_path / "_summary.json").read_bytes()
    assert json.loads(written) == said
    assert "größe".encode() in written


def test_an_empty_job_has_a_document_too():
    facts = JobFacts("segment", "photos", "out", {}, MODEL, "1.2.3")
    values = json.loads(json.dumps(document(facts, Summary()), allow_nan=False))
    assert (values["images"], values["images_per_second"], values["slowest_stage"]) == (0, None, None)
    assert values["score_bins"] is None


def test_rows_answers_and_parts_of_several_threads_are_all_counted():
    account = Account()
    stop = threading.Event()

    def answer():
        for _ in range(2000):
            account.add_answer(0.0, random.random(), [Classification((), "m", 1, TIMING)])
        stop.set()

    def read():
        while not stop.is_set():
            account.percentile_ms(0.5)
            account.total()

    states = []
    threads = [threading.Thread(target=target) for target in (answer, read)]
    for thread in threads:
        thread.start()
    while not stop.is_set():
        account.add_rows([row(failure())])
        states.append(account.close_part())
    for thread in threads:
        thread.join()
    states.append(account.close_part())
    total = account.total()
    assert (total.latencies.count, total.timed, total.failed) == (2000, 2000, len(states) - 1)
    assert sum(state["timed"] for state in states) == 2000


def test_every_field_is_documented():
    page = (Path(__file__).parents[3] / "docs" / "scoring-report.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`(\w+)`", page))
    account = account_of_a_row()
    values = document(JobFacts("segment", "photos", "out", {}, MODEL, "1.2.3"), account.total())
    for name in (
        *values,
        *values["stages_ms"],
        *values["waits_ms"],
        *values["latency_ms"],
        *values["classes"][0],
    ):
        assert name in told, name
    for name in (one.name for one in fields(Moment)):
        assert name in told, name


def account_of_a_row():
    account = Account()
    account.add_rows([row(SEGMENTATION)])
    return account

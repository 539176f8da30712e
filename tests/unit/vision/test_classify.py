"""The classes worth telling, in an order that never depends on chance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue_server.errors import EngineError
from retinue_server.vision.classify import Ranking


def listed(probabilities, k, min_score=0.0):
    class_ids, scores = Ranking(np.array([probabilities], np.float32)).top_k(0, k, min_score)
    return list(zip(class_ids, scores, strict=True))


def test_the_most_probable_come_first():
    assert [class_id for class_id, _ in listed([0.1, 0.5, 0.05, 0.35], 3)] == [1, 3, 0]


def test_ties_go_by_class_id_also_where_k_cuts_them():
    assert [class_id for class_id, _ in listed([0.25, 0.1, 0.25, 0.25, 0.15], 2)] == [0, 2]
    assert [class_id for class_id, _ in listed([0.2] * 5, 3)] == [0, 1, 2]


@pytest.mark.parametrize("k", [4, 5, 10**9])
def test_more_than_there_are_means_all(k):
    assert len(listed([0.1, 0.2, 0.3, 0.4], k)) == 4


def test_scores_below_the_least_are_left_out():
    assert [class_id for class_id, _ in listed([0.1, 0.5, 0.4], 3, min_score=0.4)] == [1, 2]
    assert listed([0.1, 0.5, 0.4], 3, min_score=0.9) == []


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 7.0, -0.5])
@pytest.mark.parametrize("k", [1, 4])
def test_what_is_no_probability_is_the_models_fault(value, k):
    with pytest.raises(EngineError, match="its bundle is broken"):
        listed([0.2, value, 0.8], k, min_score=0.9)


def test_a_probability_that_rounding_made_too_large_is_told_as_1():
    assert listed([0.0, 1.00001], 1) == [(1, 1.0)]


@given(
    st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]), min_size=1, max_size=40),
    st.integers(1, 50),
    st.sampled_from([0.0, 0.1, 0.3]),
)
def test_it_is_the_head_of_a_stable_sort(probabilities, k, min_score):
    exact = [float(np.float32(probability)) for probability in probabilities]
    least = float(np.float32(min_score))
    expected = sorted(
        ((class_id, score) for class_id, score in enumerate(exact) if score >= least),
        key=lambda pair: (-pair[1], pair[0]),
    )[:k]
    assert listed(probabilities, k, least) == expected


@given(st.integers(0, 1000), st.integers(1, 120), st.sampled_from([2, 5, 1000]))
def test_each_image_of_a_batch_gets_its_own_whatever_the_number_of_classes(seed, k, levels):
    """With few levels there are many ties, with many hardly any."""
    probabilities = np.random.default_rng(seed).integers(0, levels, (3, 100)).astype(np.float32) / levels
    ranking = Ranking(probabilities)
    for row, exact in enumerate(probabilities.tolist()):
        expected = sorted(range(100), key=lambda class_id: (-exact[class_id], class_id))[:k]
        assert ranking.top_k(row, k, 0.0) == (expected, [exact[class_id] for class_id in expected])


def test_one_image_whose_scores_are_none_costs_its_neighbours_nothing():
    probabilities = np.random.default_rng(0).random((3, 100), np.float32)
    probabilities[1, 7] = np.nan
    ranking = Ranking(probabilities)
    for row in (0, 2):
        assert ranking.top_k(row, 1, 0.0)[0] == [probabilities[row].argmax()]
    with pytest.raises(EngineError, match="its bundle is broken"):
        ranking.top_k(1, 1, 0.0)

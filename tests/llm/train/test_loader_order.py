"""Tests of the order in which training reads sequences."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.config import from_dict
from llm.train.config import PretrainConfig
from llm.train.order import WINDOW_GROUPS, Epochs, epochs_by_source, mixture, one_group


def epochs(sizes, first=0):
    sizes = np.array(sizes, np.int64)
    return Epochs(first + np.cumsum(sizes) - sizes, sizes)


SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=60)


@settings(deadline=None, max_examples=40)
@given(SIZES, st.integers(0, 2**40))
def test_every_epoch_sees_every_row_once_in_an_order_of_its_own(sizes, seed):
    order = epochs(sizes)
    n_rows = len(order)
    stream = order.rows(0, 3 * n_rows, seed).reshape(3, n_rows)
    assert all(sorted(epoch) == list(range(n_rows)) for epoch in stream.tolist())
    if n_rows > 20:
        assert len({tuple(epoch) for epoch in stream.tolist()}) == 3


@settings(deadline=None, max_examples=40)
@given(SIZES, st.lists(st.integers(0, 500), min_size=2, max_size=6))
def test_any_part_of_the_stream_can_be_had_alone(sizes, cuts):
    order = epochs(sizes)
    cuts = sorted(cuts)
    parts = [order.rows(a, b, 1) for a, b in itertools.pairwise(cuts)]
    assert np.concatenate(parts).tolist() == order.rows(0, cuts[-1], 1)[cuts[0] :].tolist()


def test_rows_come_from_few_row_groups_at_a_time_and_groups_at_random():
    order = epochs([10] * 100)
    groups = order.rows(0, 1000, 5) // 10
    windows = [set(groups[start : start + 10 * WINDOW_GROUPS].tolist()) for start in range(0, 1000, 10 * WINDOW_GROUPS)]
    assert [len(window) for window in windows] == [16, 16, 16, 16, 16, 16, 4]
    assert len(set().union(*windows)) == 100
    assert all(max(window) - min(window) > 40 for window in windows)
    assert len(set(groups[:32].tolist())) > 10  # mixed within the window


def test_a_seed_has_an_order_of_its_own():
    assert one_group(100).rows(0, 100, 0).tolist() != one_group(100).rows(0, 100, 1).tolist()


def test_the_order_is_the_same_everywhere():
    """Remake by printing the left sides; they must never change, or resumed runs would see other data."""
    assert one_group(8).rows(8, 16, 2).tolist() == [2, 7, 0, 1, 5, 6, 3, 4]
    assert epochs([2] * 40).rows(0, 6, 7).tolist() == [0, 73, 44, 70, 23, 21]
    assert epochs([2] * 40).rows(40, 46, 7).tolist() == [65, 31, 7, 61, 35, 3]


SOURCES = {"small": epochs([7] * 3), "large": epochs([50] * 40, first=21)}


@pytest.mark.parametrize("weights", [{"small": 1, "large": 3}, {"small": 0.2, "large": 0.1}, {"small": 1, "large": 19}])
def test_a_mixture_has_the_shares_that_were_asked_for(weights):
    rows = mixture(SOURCES, weights).rows(0, 10_000, 0)
    share = weights["small"] / sum(weights.values())
    assert abs((rows < 21).mean() / share - 1) < 0.01
    parts = (rows < 21).reshape(100, 100).mean(1)  # and evenly so: in each hundred rows
    assert np.abs(parts - share).max() <= 0.01 + 1e-9


def test_each_source_of_a_mixture_goes_through_its_own_epochs():
    rows = mixture(SOURCES, {"small": 1, "large": 3}).rows(0, 8000, 9)
    small, large = rows[rows < 21], rows[rows >= 21]
    assert small.tolist() == SOURCES["small"].rows(0, len(small), 9).tolist()
    assert large.tolist() == SOURCES["large"].rows(0, len(large), 9).tolist()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 200_000), min_size=2, max_size=2))
def test_any_part_of_a_mixture_can_be_had_alone(cuts):
    start, stop = min(cuts), min(min(cuts) + 50, max(cuts))
    mixed = mixture(SOURCES, {"small": 1, "large": 2})
    assert mixed.rows(start, stop, 1).tolist() == mixed.rows(0, stop, 1)[start:].tolist()


def test_a_source_that_is_not_named_is_not_read():
    assert (mixture(SOURCES, {"small": 2}).rows(0, 100, 0) < 21).all()


def test_how_often_each_source_is_repeated():
    mixed = mixture(SOURCES, {"small": 1, "large": 3})
    assert epochs_by_source(mixed, 8400) == pytest.approx({"small": 2100 / 21, "large": 6300 / 2000}, rel=1e-3)
    assert epochs_by_source(one_group(10), 100) == {}


def test_an_unknown_source_is_refused():
    with pytest.raises(ValueError, match=r"mixture names 'smal', .*; they hold: 'large', 'small'"):
        mixture(SOURCES, {"smal": 1, "large": 2})


@pytest.mark.parametrize("weights", [{}, {"small": 0}, {"small": -1, "large": 2}, {"small": float("nan")}])
def test_weights_that_say_nothing_are_refused(weights):
    with pytest.raises(ValueError, match=r"mixture is .*; allowed: empty, or sources with weights above 0"):
        PretrainConfig(mixture=weights)


def test_a_mixture_goes_through_json():
    assert from_dict(PretrainConfig, {"mixture": {"small": 1, "large": 2.5}}).mixture == {"small": 1, "large": 2.5}

"""Tests of batches, and of the loader that makes a step's batches ready ahead of time."""

import queue

import numpy as np
import pytest
import torch

from llm.train.loader import IGNORED, Batch, Sequences, StepLoader, batch_of, evenly_spaced, step_rows
from llm.train.order import one_group

CPU = torch.device("cpu")


class Rows(Sequences):
    """Sequences of different lengths in memory, filled up to the longest of a batch."""

    def __init__(self, rows, masks):
        self.rows, self.masks, self.order = rows, masks, one_group(len(rows))

    def __len__(self):
        return len(self.rows)

    def lengths(self, rows):
        return np.array([len(self.rows[row]) for row in rows])

    def batch(self, rows):
        width = self.lengths(rows).max()
        tokens, masks = (
            np.array([np.pad(values[row], (0, width - len(values[row]))) for row in rows])
            for values in (self.rows, self.masks)
        )
        return batch_of(tokens, masks)


def rows_of(*rows, masks=None):
    masks = masks or [[1] * len(row) for row in rows]
    return Rows([np.array(row) for row in rows], [np.array(mask, bool) for mask in masks])


def values(batches):
    return [(batch.inputs.tolist(), batch.targets.tolist()) for batch in batches]


def test_targets_are_the_inputs_one_position_on():
    batch = rows_of([5, 6, 7, 8], [9, 10]).batch(np.array([1, 0]))
    assert batch.inputs.tolist() == [[9, 10, 0], [5, 6, 7]]
    assert batch.targets.tolist() == [[10, IGNORED, IGNORED], [6, 7, 8]]


def test_only_supervised_tokens_are_targets():
    sequences = rows_of([5, 6, 7, 8], [1, 2, 3], masks=[[0, 0, 1, 1], [1, 0, 1]])
    batch = sequences.batch(np.array([0, 1]))
    assert batch.targets.tolist() == [[IGNORED, 7, 8], [IGNORED, 3, IGNORED]]
    positions, targets = batch.positions, batch.learned()
    assert (positions.tolist(), targets.tolist(), batch.n_learned) == ([1, 2, 4], [7, 8, 3], 3)


def test_a_batch_without_a_loss_mask_has_no_positions():
    batch = batch_of(np.array([[5, 6, 7], [8, 9, 10]], np.uint16))
    positions, targets = batch.positions, batch.learned()
    assert (positions, targets.tolist(), batch.n_learned) == (None, [6, 7, 9, 10], 4)
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64


@pytest.mark.parametrize("is_learned", [None, np.array([[0, 1, 1], [0, 0, 1]], bool)])
def test_the_targets_to_learn_are_those_that_are_not_ignored(is_learned):
    batch = batch_of(np.array([[5, 6, 7], [8, 9, 10]], np.uint16), is_learned)
    positions, targets = batch.positions, batch.learned()
    flat = batch.targets.flatten()
    expected = (flat != IGNORED).nonzero().flatten()
    assert targets.tolist() == flat[expected].tolist()
    assert positions is None or positions.tolist() == expected.tolist()


def test_micro_batches_hold_every_row_once_and_like_lengths_together():
    rows = [list(range(1, n)) for n in (9, 3, 7, 4, 8, 3)]
    batches = list(rows_of(*rows).batches(np.arange(6), 2))
    assert [batch.inputs.shape[1] for batch in batches] == [1, 5, 7]
    assert sum(batch.n_learned for batch in batches) == sum(len(row) - 1 for row in rows)


def test_evenly_spaced_rows():
    assert evenly_spaced(10, 3).tolist() == [0, 3, 6]
    assert evenly_spaced(2, 5).tolist() == [0, 1]
    assert evenly_spaced(5, 0).tolist() == []


SEQUENCES = rows_of(*[[i, i + 1, i + 2] for i in range(20)])


def plain_batches(step, sequences=SEQUENCES):
    return list(sequences.batches(step_rows(one_group(20), 6, step, seed=3), 4))


def test_the_loader_gives_each_steps_batches_whatever_was_asked_for_before():
    loader = StepLoader(SEQUENCES, 6, 4, 3, CPU)
    for step in (0, 1, 2, 2, 1, 7, 8, 0):
        assert values(loader.batches(step)) == values(plain_batches(step))


def test_shares_of_a_step_make_up_the_step():
    loaders = [StepLoader(SEQUENCES, 6, 4, 3, CPU, lambda rows, i=i: rows[i::2]) for i in range(2)]
    for step in range(4):
        parts = [batch.inputs for loader in loaders for batch in loader.batches(step)]
        whole = [batch.inputs for batch in plain_batches(step)]
        assert sorted(torch.cat(parts).tolist()) == sorted(torch.cat(whole).tolist())


class Watched(Rows):
    """Notes the rows that it is asked for, and fails at row 13."""

    asked: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()

    def batch(self, rows: np.ndarray) -> Batch:
        self.asked.put(rows)
        if 13 in rows:
            raise OSError("row 13 cannot be read")
        return super().batch(rows)


def test_the_next_step_is_made_ready_without_being_asked_for(monkeypatch):
    monkeypatch.setattr(Watched, "asked", queue.SimpleQueue())
    sequences = Watched([np.array([1, 2])] * 10, [np.array([True, True])] * 10)
    loader = StepLoader(sequences, 2, 2, 0, CPU)
    loader.batches(0)
    for step in (0, 1):
        rows = sequences.asked.get(timeout=10)
        assert sorted(rows) == sorted(step_rows(sequences.order, 2, step, 0))


def test_a_failure_ahead_is_raised_when_its_step_is_asked_for():
    sequences = Watched([np.array([1, 2])] * 20, [np.array([True, True])] * 20)
    loader = StepLoader(sequences, 1, 1, 0, CPU)
    failing = [int(step_rows(sequences.order, 1, step, 0)[0]) for step in range(20)].index(13)
    for step in range(failing):
        loader.batches(step)
    with pytest.raises(OSError, match="row 13"):
        loader.batches(failing)
    assert loader.batches(failing + 1)[0].n_learned == 1


def test_fewer_sequences_than_one_batch_are_refused():
    StepLoader(SEQUENCES, 20, 4, 0, CPU)
    with pytest.raises(ValueError, match=r"a step trains on 21 sequences, but there are only 20: .*batch_tokens"):
        StepLoader(SEQUENCES, 21, 4, 0, CPU)

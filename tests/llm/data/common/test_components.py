from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llm.data.common.components import components


@given(pairs=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_components_name_their_smallest_number(pairs: list[tuple[int, int]]) -> None:
    expected = {i: i for pair in pairs for i in pair}
    for _ in range(10):
        for i, j in pairs:
            expected[i] = expected[j] = min(expected[i], expected[j])
    numbers, first = components(np.array(pairs, dtype=np.int64).reshape(-1, 2))
    assert dict(zip(numbers.tolist(), first.tolist(), strict=True)) == expected

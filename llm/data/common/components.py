"""Connected components: which things belong together, directly or through others."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]


def components(pairs: Integers) -> tuple[Integers, Integers]:
    """Returns all numbers in the pairs, sorted, and for each the smallest that it is connected with, `(n,)` each.

    `pairs` is `(n_pairs, 2)`.
    """
    from scipy.sparse import coo_array  # only where it is used: this module is imported whenever a recipe is read
    from scipy.sparse.csgraph import connected_components

    numbers, index = np.unique(pairs, return_inverse=True)
    index = index.reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (index[:, 0], index[:, 1])), shape=(len(numbers),) * 2)
    labels = connected_components(graph, directed=False)[1]
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return numbers, numbers[first[inverse]]

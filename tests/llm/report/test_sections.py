from __future__ import annotations

import pyarrow as pa

from llm.files import write_table
from llm.report.sections import DroppedSample, dropped_duplicates


def test_duplicates_without_reasons_and_documents_still_show(tmp_path):
    """A clusters.parquet with the four columns every dedup stage writes, and no artifact to look addresses up in."""
    row = {"cluster": "a", "jaccard": 0.875}
    rows = [{**row, "id": "a", "kept": True}, {**row, "id": "b", "kept": False}, {**row, "id": "c", "kept": False}]
    write_table(tmp_path / "clusters.parquet", pa.Table.from_pylist(rows))
    assert dropped_duplicates(tmp_path, None, 1) == [DroppedSample("duplicate", 2, ["b ≈ a (Jaccard 0.88)"])]

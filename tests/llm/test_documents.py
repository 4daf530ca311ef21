from __future__ import annotations

import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.documents import (
    DOCUMENT_SCHEMA,
    Document,
    document_files,
    document_id,
    documents_table,
    read_documents,
)
from llm.files import write_table
from llm.splits import is_held_out

IDS = [document_id(f"https://site/{i}", "text") for i in range(4_000)]


@given(url=st.text(st.characters(codec="utf-8")), text=st.text(st.characters(codec="utf-8")))
def test_an_id_is_32_hexadecimal_digits_and_a_function_of_url_and_text(url: str, text: str) -> None:
    id = document_id(url, text)
    assert len(id) == 32
    assert int(id, 16) >= 0
    assert id == document_id(url, text)
    assert id != document_id(url + "x", text)
    assert id != document_id(url, text + "x")


def test_an_id_is_what_it_was_in_earlier_versions() -> None:
    # Remake: python -c "import hashlib; print(hashlib.blake2b(b'https://a/\nHello', digest_size=16).hexdigest())"
    assert document_id("https://a/", "Hello") == "1a43361dc65ebd1e09f95eeaccc82362"


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5])
def test_the_share_held_out_is_the_fraction(fraction: float) -> None:
    n_held_out = sum(is_held_out(id, fraction) for id in IDS)
    four_sigma = 4 * (fraction * (1 - fraction) * len(IDS)) ** 0.5
    assert abs(n_held_out - fraction * len(IDS)) < four_sigma


def test_a_larger_fraction_only_adds_and_the_ends_are_none_and_all() -> None:
    assert {id for id in IDS if is_held_out(id, 0.05)} < {id for id in IDS if is_held_out(id, 0.2)}
    ends = ["0" * 32, "f" * 32, *IDS]
    assert not any(is_held_out(id, 0.0) for id in ends)
    assert all(is_held_out(id, 1.0) for id in ends)


def test_documents_survive_the_files_in_partition_order(tmp_path: Path) -> None:
    documents = [Document(f"{i:032x}", f"u{i}", "Title é", "a\nb 😀", "en", 5, i == 1) for i in range(12)]
    for part in range(12):
        write_table(tmp_path / f"documents-{part:05d}.parquet", documents_table(documents[part : part + 1]))
    write_table(tmp_path / "documents-00012.parquet", documents_table([]))
    assert list(read_documents(tmp_path)) == documents
    assert len(document_files(tmp_path)) == 13
    assert documents_table([]).schema == DOCUMENT_SCHEMA


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "documents-00000.parquet"
    write_table(
        path,
        documents_table([Document("0" * 32, "u", "t", random.Random(0).randbytes(2_000).hex(), "en", 4_000, False)]),
    )
    damaged = bytearray(path.read_bytes())
    damaged[pq.read_metadata(path).row_group(0).column(3).dictionary_page_offset + 100] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(OSError, match=r"CRC|checksum|Corrupt|deserialize"):
        list(read_documents(tmp_path))

"""Questions and answers out of the corpus."""

from __future__ import annotations

from llm.counts import Counts
from llm.data.instruct import InstructConfig, extract_definitions, overall_counts, split_examples
from llm.data.warc import page_slices

from .build import Build
from .stage import stage
from .store import Artifact


@stage(version=1)
def instruct(build: Build, pages: Artifact, documents: Artifact, config: InstructConfig) -> Counts:
    """Instruction examples and a closed-book benchmark from the definition lists of the pages that the corpus keeps."""
    if not (pages.path / "pages.parquet").exists():
        raise ValueError(
            "the corpus is not made of web pages, so it has no definition lists to make examples of; "
            "set instruct and finetune to null in the recipe"
        )
    slices = page_slices(pages.path, config.pages_per_partition)
    folders, extracted = build.each(extract_definitions, slices, documents.path, config=config)
    kept = split_examples([folder / "definitions.parquet" for folder in folders], build.out_dir, config)
    return overall_counts(extracted, kept)

"""Questions and answers out of the corpus, files and data sets."""

from __future__ import annotations

from pathlib import Path

from llm.counts import Counts
from llm.data.common.warc_read import page_slices
from llm.data.instruct.config import InstructConfig
from llm.data.instruct.definitions import extract_definitions
from llm.data.instruct.sources import check_sources, external_files, read_sources
from llm.data.instruct.split import overall_counts, write_examples

from .core import session
from .core.build import Build, place
from .core.stage import stage
from .core.store import Artifact


@stage(version=2, external_files=external_files, check=check_sources)
def instruct(build: Build, pages: Artifact, documents: Artifact, config: InstructConfig) -> Counts:
    """Instruction examples; of the definition lists of the pages that the corpus keeps also a closed-book benchmark."""
    given = read_sources(config, session.current().downloads)
    folders, extracted = list[Path](), None
    if config.definitions:
        if not (pages.path / "pages.parquet").exists():
            raise ValueError(
                "the corpus is not made of web pages, so it has no definition lists to make examples of; give other "
                "instruct.sources, or set instruct and finetune to null in the recipe"
            )
        slices = page_slices(pages.path, config.pages_per_partition)
        folders, extracted = build.each(extract_definitions, slices, documents.path, config=config)
    for index, folder in enumerate(folders):
        place(folder / "dropped.parquet", build.out_dir / f"dropped-{index:05d}.parquet")
    definitions = [folder / "definitions.parquet" for folder in folders]
    kept = write_examples(definitions, given, build.out_dir, config, f"dropped-{len(folders):05d}.parquet")
    return overall_counts(extracted, kept)

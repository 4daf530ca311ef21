"""Peer: datatrove's WARC reader.

    python datatrove_read.py WARC_FOLDER

Run it with the Python of an environment that holds datatrove (see datatrove_run.py). Prints pages and CPU seconds.
"""

from __future__ import annotations

import json
import sys
import time

from datatrove.pipeline.readers import WarcReader

if __name__ == "__main__":
    reader = WarcReader(sys.argv[1], glob_pattern="*.warc.gz")
    started = time.process_time()
    n_pages = sum(1 for _ in reader.run(rank=0, world_size=1))
    print(json.dumps({"n_pages": n_pages, "cpu_s": time.process_time() - started}))

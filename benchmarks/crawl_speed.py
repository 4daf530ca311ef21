"""Speed of the crawl stage against plain Scrapy, on one local site: `python -m benchmarks.crawl_speed --data DIR`.

DIR is a folder of HTML with an index.html, such as `workspace/downloads/python-docs`. A process serves it on the
loopback interface; crawls run one after the other, the two kinds in turn, each in a process of its own. Plain Scrapy
obeys robots.txt, makes one Request for every link of a page (each once; its own filter drops what other pages had),
reads links with selectolax, and writes a gzipped WARC with warcio. Ours does what the pipeline does, the export into
the artifact included. Both have 16 connections and no delay. Printed are wall and CPU seconds of the crawling process,
and the ratios of the medians. With `--every-link` plain Scrapy makes a Request for every `<a>`, as spiders do that
leave all to the filter.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]

PLAIN_SCRAPY = """
import sys
from io import BytesIO
import scrapy
from scrapy.crawler import CrawlerProcess
from selectolax.lexbor import LexborHTMLParser
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

class Plain(scrapy.Spider):
    name = "plain"
    n = 0
    def __init__(self, seed, out, **kwargs):
        super().__init__(**kwargs)
        self.start_urls, self.host = [seed], seed.split("/")[2]
        self.writer = WARCWriter(open(out, "wb"), gzip=True)
    def parse(self, response):
        if b"html" not in response.headers.get("Content-Type", b""):
            return
        self.n += 1
        headers = [(k.decode(), v[0].decode()) for k, v in response.headers.items()]
        self.writer.write_record(self.writer.create_warc_record(
            response.url, "response", payload=BytesIO(response.body),
            http_headers=StatusAndHeaders("200 OK", headers, protocol="HTTP/1.1")))
        hrefs = [a.attrs["href"] or "" for a in LexborHTMLParser(response.body).css("a[href]")]
        for href in hrefs if sys.argv[3:] else dict.fromkeys(href.partition("#")[0] for href in hrefs):
            url = response.urljoin(href)
            if url.startswith(f"http://{self.host}/"):
                yield scrapy.Request(url)
    def closed(self, reason):
        self.writer.out.close()
        print(self.n)

process = CrawlerProcess({"ROBOTSTXT_OBEY": True, "CONCURRENT_REQUESTS": 16, "CONCURRENT_REQUESTS_PER_DOMAIN": 16,
    "DOWNLOAD_DELAY": 0, "LOG_LEVEL": "ERROR", "TELNETCONSOLE_ENABLED": False, "COOKIES_ENABLED": False})
process.crawl(Plain, seed=sys.argv[1], out=sys.argv[2])
process.start()
"""

SERVER = """
import sys, time
from pathlib import Path
from llm.data.web.site import serve
with serve(Path(sys.argv[1]), 0) as url:
    print(url, flush=True)
    time.sleep(10**6)
"""


def timed(command: list[str]) -> tuple[float, float, str]:
    """Wall seconds, CPU seconds and output of a process."""
    started, before = time.perf_counter(), os.times()
    done = subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - started, cpu, done.stdout.decode()


def plain(url: str, folder: Path, *options: str) -> tuple[int, float, float]:
    """Pages, wall and CPU seconds of plain Scrapy."""
    arguments = [f"{url}index.html", str(folder / "plain.warc.gz"), *options]
    wall, cpu, output = timed([sys.executable, "-c", PLAIN_SCRAPY, *arguments])
    return int(output), wall, cpu


def ours(url: str, folder: Path) -> tuple[int, float, float]:
    """Pages, wall and CPU seconds of the crawl stage."""
    place = url.removeprefix("http://").rstrip("/")
    config = {"seeds": [f"{url}index.html"], "allow_private": [place], "delay_s": 0}
    for name in ("work", "out"):
        (folder / name).mkdir()
    job = {"config": config, "work_dir": str(folder / "work"), "out_dir": str(folder / "out")}
    (folder / "job.json").write_text(json.dumps(job))
    wall, cpu, _ = timed([sys.executable, "-m", "llm.data.web.crawl", str(folder / "job.json")])
    return json.loads((folder / "work/counts.json").read_text())["n_out"], wall, cpu


def main() -> None:
    """Prints every run, then the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="a folder of HTML with an index.html")
    parser.add_argument("--n-runs", type=int, default=5)
    parser.add_argument("--every-link", action="store_const", const=("every",), default=())
    options = parser.parse_args()
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(options.data)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    url = server.stdout.readline().strip()
    results: dict[str, list[tuple[int, float, float]]] = {"plain": [], "ours": []}
    try:
        for _ in range(options.n_runs):
            for name, crawl in (("plain", plain), ("ours", ours)):
                with tempfile.TemporaryDirectory() as folder:
                    extra = options.every_link if name == "plain" else ()
                    results[name].append(crawl(url, Path(folder), *extra))
                pages, wall, cpu = results[name][-1]
                print(f"{name:6} {pages} pages  wall {wall:.2f} s  CPU {cpu:.2f} s  {pages / wall:.0f} pages/s")
    finally:
        server.terminate()
        server.wait()
    for place, unit in ((1, "wall"), (2, "CPU")):
        rates = {name: statistics.median(run[0] / run[place] for run in runs) for name, runs in results.items()}
        ratio = rates["ours"] / rates["plain"]
        print(f"pages per second of {unit}: ours {rates['ours']:.0f}, plain {rates['plain']:.0f}, ratio {ratio:.2f}")


if __name__ == "__main__":
    main()

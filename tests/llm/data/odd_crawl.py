"""`python odd_crawl.py ODDITIES job.json`: the crawl process with faults built in.

ODDITIES is a JSON object: "crash": [point, n] kills the process with SIGKILL at the n-th pass of a point of a commit;
"file_bytes": n lets no file grow beyond n bytes (as on a full disk); "everywhere": true follows links to all hosts;
"unguarded": true takes the egress guard out; "fake_dns": true makes some names resolve to changing or mixed
addresses; "raise_on": path makes our own code fail on that page.
"""

import itertools
import json
import os
import resource
import signal
import socket
import sys

import llm.data.egress
import llm.data.frontier
import llm.data.links
import llm.files
from llm.data.crawl import job
from llm.process import run_job

CRASH_POINTS = {
    "before_fsync": (llm.files, "fsync_file"),
    "after_rename": (llm.files, "fsync_directory"),
    "in_transaction": (llm.data.frontier.Frontier, "_insert"),
    "before_commit": (llm.data.frontier.Frontier, "_write_refusals"),
    "level": (llm.data.frontier.Frontier, "_open_level"),
    "export": (llm.data.frontier.Frontier, "verify_segments"),
}


def crash(point, n):
    """SIGKILL at the n-th call of the function at `point`."""
    owner, name = CRASH_POINTS[point]
    original, calls = getattr(owner, name), itertools.count(1)

    def dying(*args, **kwargs):
        if next(calls) == n:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(owner, name, dying)


def fake_dns():
    """Names under .test resolve to the victim: every second time, among public addresses, as a mapped address."""
    import twisted.internet._resolver

    real, turn = socket.getaddrinfo, itertools.count()
    public, local = (socket.AF_INET, "93.184.216.34"), (socket.AF_INET, "127.0.0.1")
    names = {
        "rebind.test": lambda: [(public, local)[next(turn) % 2]],
        "mixed.test": lambda: [public, local],
        "mapped.test": lambda: [(socket.AF_INET6, "::ffff:127.0.0.1"), public],
    }

    def resolve(host, port, *args, **kwargs):
        if host not in names:
            return real(host, port, *args, **kwargs)
        ends = [(family, (ip, port) if family == socket.AF_INET else (ip, port, 0, 0)) for family, ip in names[host]()]
        return [(family, socket.SOCK_STREAM, 6, "", end) for family, end in ends]

    twisted.internet._resolver.GAIResolver.__init__.__defaults__ = (None, resolve)


def raise_on(path):
    """A page that our own code cannot process."""
    import llm.data.spider

    original = llm.data.spider.page_links

    def page_links(url, body, scope):
        if url.endswith(path):
            raise RuntimeError("unlucky")
        return original(url, body, scope)

    llm.data.spider.page_links = page_links


oddities = json.loads(sys.argv.pop(1))
if "crash" in oddities:
    crash(*oddities["crash"])
if "file_bytes" in oddities:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (oddities["file_bytes"], oddities["file_bytes"]))
if "everywhere" in oddities:
    llm.data.links.Scope.contains = lambda self, url: True
if "unguarded" in oddities:
    llm.data.egress.EgressPolicy.objection = lambda self, host, address, port: None
if "fake_dns" in oddities:
    fake_dns()
if "raise_on" in oddities:
    raise_on(oddities["raise_on"])
run_job(job)

"""`python odd_crawl.py ODDITIES job.json`: the crawl process with faults built in.

ODDITIES is a JSON object: "crash": [point, n] kills the process with SIGKILL at the n-th pass of a point of a commit;
"file_bytes": n lets no file grow beyond n bytes (as on a full disk); "everywhere": true follows links to all hosts;
"unguarded": true takes the egress guard out; "no_resolver": true keeps it from being installed; "fake_dns": {name:
[addresses, ...]} makes a name resolve to the next of these lists each time; "public": address counts as a public one;
"raise_on": path makes our own code fail on that page.
"""

import itertools
import json
import os
import resource
import signal
import socket
import sys

import llm.data.web.egress
import llm.data.web.ledger
import llm.data.web.links
import llm.files
from llm.data.web.crawl import job
from llm.process import run_job

CRASH_POINTS = {
    "before_fsync": (llm.files, "fsync_file"),
    "after_rename": (llm.files, "fsync_directory"),
    "in_transaction": (llm.data.web.ledger.Ledger, "add"),
    "before_commit": (llm.data.web.ledger.Ledger, "refuse"),
    "level": (llm.data.web.ledger.Ledger, "admit"),
    "round": (llm.data.web.ledger.Ledger, "merge_cross_host_links"),
    "export": (llm.data.web.ledger.Ledger, "verify_segments"),
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


def fake_dns(names):
    """Each name resolves to the next of its lists of addresses at every question."""
    import twisted.internet._resolver

    real = socket.getaddrinfo
    answers = {name: itertools.cycle(lists) for name, lists in names.items()}

    def resolve(host, port, *args, **kwargs):
        if host not in answers:
            return real(host, port, *args, **kwargs)
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (ip, port, 0, 0))
            if ":" in ip
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port))
            for ip in next(answers[host])
        ]

    twisted.internet._resolver.GAIResolver.__init__.__defaults__ = (None, resolve)


def public(address):
    """One address of this machine stands for the public ones."""
    real = llm.data.web.egress.private_kind
    llm.data.web.egress.private_kind = lambda ip: None if ip == address else real(ip)


def raise_on(path):
    """A page that our own code cannot process."""
    import llm.data.web.answers

    original = llm.data.web.answers.read_markup

    def read_markup(url, *args):
        if url.endswith(path):
            raise RuntimeError("unlucky")
        return original(url, *args)

    llm.data.web.answers.read_markup = read_markup


oddities = json.loads(sys.argv.pop(1))
if "crash" in oddities:
    crash(*oddities["crash"])
if "file_bytes" in oddities:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (oddities["file_bytes"], oddities["file_bytes"]))
if "everywhere" in oddities:
    llm.data.web.links.Scope.contains = lambda self, url: True
if "unguarded" in oddities:
    llm.data.web.egress.EgressPolicy.rejection_reason = lambda self, host, address, port: None
if "no_resolver" in oddities:
    llm.data.web.egress.GuardedResolver.install_on_reactor = lambda self: None
if "fake_dns" in oddities:
    fake_dns(oddities["fake_dns"])
if "public" in oddities:
    public(oddities["public"])
if "raise_on" in oddities:
    raise_on(oddities["raise_on"])
run_job(job)

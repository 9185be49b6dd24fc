"""Ports for servers that tests start.

Below the range that the kernel takes for outgoing connections: a port out of that range can be gone again before the
server that it was found for listens, seconds later, when several tests run at once.
"""

import itertools
import os
import re
import socket
from pathlib import Path

_FIRST, _END = 18_000, 30_000
_WORKERS = 8  # of pytest-xdist; each has a part of the ports to itself


def _own() -> range:
    worker = int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0) % _WORKERS
    outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    size = (min(_END, outgoing) - _FIRST) // _WORKERS
    return range(_FIRST + worker * size, _FIRST + (worker + 1) * size)


# Not from the start of the part, where another run of the tests on this machine may be.
_ports = itertools.cycle(_own()[os.getpid() % len(_own()) :] if _own() else ())


def _is_free(port: int) -> bool:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def free_port(count: int = 1) -> int:
    """The first of so many ports in a row that nobody listens on; none is given twice soon."""
    found: list[int] = []
    for port in itertools.islice(_ports, 10 * len(_own())):
        found = [*found, port] if _is_free(port) and (not found or port == found[-1] + 1) else []
        if len(found) == count:
            return found[0]
    raise RuntimeError(f"no {count} free ports in a row between {_FIRST} and {_END}")

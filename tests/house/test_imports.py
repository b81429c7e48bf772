"""Memory is mostly imports: what a daemon loads is a list here, and a new name on it is a decision."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The official client is not here: it would be 16 MiB more (docs/decisions/0006).
HTTP = {"aiohttp", "aiohappyeyeballs", "aiosignal", "attr", "frozenlist", "idna", "multidict", "propcache", "yarl"}
COMMON = HTTP | {"msgspec", "structlog", "prometheus_client", "cryptography", "typing_extensions", "cffi", "yaml"}
OPTIONAL = {"rich", "pygments"}  # structlog loads them where they are; an image does not have them.
ALLOWED = {
    "controller": COMMON | OPTIONAL | {"controller"},
    "speaker": COMMON | OPTIONAL | {"speaker", "memberlist", "msgpack", "pyroute2", "scapy"},
}
OURS = {"config", "kube", "telemetry"}


@pytest.mark.parametrize("daemon", sorted(ALLOWED))
def test_a_daemon_loads_what_is_listed_and_nothing_else(daemon: str) -> None:
    code = (
        "import sys\n"
        "before = {*sys.modules, *sys.stdlib_module_names}\n"
        f"import {daemon}.run, json\n"
        "found = {name.split('.')[0] for name, one in sys.modules.items() if getattr(one, '__file__', None)} - before\n"
        "rss = next(line for line in open('/proc/self/status') if line.startswith('VmRSS'))\n"
        "print(json.dumps([sorted(found), int(rss.split()[1]) // 1024]))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    found, mebibytes = json.loads(result.stdout)
    print(f"{daemon} starts with {mebibytes} MiB: {', '.join(found)}")  # noqa: T201 - The bill is part of the report.
    loaded = {name for name in found if not name.startswith("_")}
    assert loaded - ALLOWED[daemon] - OURS == set()
    assert {"aiohttp", "msgspec", daemon} <= loaded

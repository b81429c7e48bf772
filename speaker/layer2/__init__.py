"""Answers ARP for the addresses this node owns, and tells the neighbours when it takes one over.

Knows addresses, interfaces and frames; knows nothing of Services, elections or Kubernetes.
"""

from __future__ import annotations

import os

# Scapy writes caches of its name tables below the home directory while it is imported. A daemon must not litter a home, and
# its root file system may be read-only: a cache directory that cannot be made turns the caches off.
_before = os.environ.get("XDG_CACHE_HOME")
os.environ["XDG_CACHE_HOME"] = os.devnull + "/none"
import scapy.main  # noqa: E402, F401  # Reads the variable once, when it is imported.

if _before is None:
    del os.environ["XDG_CACHE_HOME"]
else:
    os.environ["XDG_CACHE_HOME"] = _before

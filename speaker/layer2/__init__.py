"""Answers ARP for the addresses this node owns, and tells the neighbours when it takes one over.

Knows addresses, interfaces and frames; knows nothing of Services, elections or Kubernetes.
"""

from __future__ import annotations

import os

# Scapy makes directories below the home directory, and writes caches of its name tables there, while it is imported. A daemon
# must not litter a home, and its root file system may be read-only: directories that cannot be made turn all of it off.
_HOMES = ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
_before = {name: os.environ.get(name) for name in _HOMES}
os.environ.update(dict.fromkeys(_HOMES, os.devnull + "/none"))
import scapy.main  # noqa: E402, F401  # Reads the variables once, when it is imported.

for _name, _value in _before.items():
    if _value is None:
        del os.environ[_name]
    else:
        os.environ[_name] = _value

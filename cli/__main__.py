"""lbctl: ask the daemons, and make what is made from the sources. Subcommands live in modules of their own.

Exit status of every subcommand: 0 fine, 1 a finding, 2 could not look.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Final

SUBCOMMANDS: Final[Mapping[str, tuple[str, str]]] = {
    "check": ("cli.check", "say what is wrong with configuration files, without a cluster"),
    "explain": ("cli.explain", "say why a Service has its address (or none), and who announces it"),
    "maintenance": ("cli.maintenance", "move every address away from a node that is to be worked on, and back"),
    "generate": ("cli.generate", "write the files that are made from the sources"),
}
"""Name → module with run(argv) -> int, and one line of help. Loaded only when asked for, to keep start-up short."""


def usage() -> str:
    """The help text."""
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  {name:{width}}  {help_text}" for name, (_, help_text) in SUBCOMMANDS.items()]
    return "\n".join(["usage: lbctl SUBCOMMAND [...]", "", *lines, "", "example: lbctl generate --check"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the subcommand that argv names."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["-h"], ["--help"], ["help"]):
        print(usage())
        return 0
    if not arguments or arguments[0] not in SUBCOMMANDS:
        print(usage() if not arguments else f"lbctl: unknown subcommand {arguments[0]!r}\n\n{usage()}", file=sys.stderr)
        return 2
    module, _ = SUBCOMMANDS[arguments[0]]
    status: int = importlib.import_module(module).run(arguments[1:])
    return status


if __name__ == "__main__":
    sys.exit(main())

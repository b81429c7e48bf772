"""The lab's API server stays small: about 4,000 lines of code are its bound, and what it has reached may only fall."""

import ast
import io
import re
import tokenize
from pathlib import Path

SERVER = Path(__file__).parents[2] / "lab" / "apiserver"
LINES_OF_CODE = 5103
NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER,
}  # fmt: skip


def lines_of_code(text: str) -> int:
    """How many lines of a module hold code: no docstrings, no comments, no blank lines."""
    texts = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    tokens = (t for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type not in NO_CODE)
    return len({line for t in tokens for line in range(t.start[0], t.end[0] + 1)} - texts)


def test_lines_of_code_are_neither_docstrings_nor_comments() -> None:
    assert (
        lines_of_code(
            '"""Why.\n\nMore."""\n\n# a comment\nx = (\n    1,  # one\n)\n\n\ndef f():\n    """What."""\n    return x\n'
        )
        == 5
    )


def test_the_api_server_grows_no_more_and_says_how_long_it_is() -> None:
    total = sum(lines_of_code(path.read_text(encoding="utf-8")) for path in SERVER.glob("*.py"))
    assert total <= LINES_OF_CODE, "leave out what costs more than it is worth and list it in DIFFERENCES.md"
    assert total == LINES_OF_CODE, f"it has become shorter: set LINES_OF_CODE to {total}, here and in DIFFERENCES.md"
    said = re.search(r"([\d,]+) lines of code", (SERVER / "DIFFERENCES.md").read_text(encoding="utf-8"))
    assert said is not None
    assert int(said[1].replace(",", "")) == LINES_OF_CODE

"""The command for long runs goes on where it ended, adds up what belongs together, and can do any chunk again."""

import json
from pathlib import Path

import pytest

from tests.simulation import __main__ as command
from tests.simulation import measure, tables
from tests.simulation.measure import Cell, Task, done, next_chunk
from tests.simulation.tables import BEGIN, END, percentile


def a_line(seed: int, code: str = "c0de", **facts: object) -> dict[str, object]:
    cell = measure.as_dict(Cell("crash", "compat", 3))
    return {"cell": cell, "seed": seed, "code": code, "amount": 30, "first": [1.0], "all": [2.0], "wrong_deaths": 0} | facts


def test_a_chunk_done_twice_is_the_same_line() -> None:
    cell = Cell("steady", "compat", 3, 0.05)
    assert measure.measure(cell, 4) == measure.measure(cell, 4) != measure.measure(cell, 5)


def test_the_next_chunk_is_the_most_urgent_and_of_these_the_furthest_behind() -> None:
    first, second, later = Cell("crash", "compat", 3), Cell("crash", "compat", 10), Cell("stall", "compat", 3)
    wanted = [Task(later, 100, 1), Task(first, 60, 0), Task(second, 60, 0)]
    assert next_chunk(wanted, {}) == (first, 0)
    lines: dict[Cell, list[dict[str, object]]] = {first: [a_line(0)]}
    assert next_chunk(wanted, lines) == (second, 0)
    lines = {first: [a_line(0), a_line(2)], second: [a_line(1)]}
    assert next_chunk(wanted, lines) == (second, 0)
    lines[second] += [a_line(0)]
    assert next_chunk(wanted, lines) == (later, 0)
    assert next_chunk(wanted[1:], lines) is None


def test_lines_of_other_code_and_seeds_counted_before_are_not_added_up() -> None:
    lines = [a_line(0), a_line(0), a_line(1, code="older"), a_line(2)]
    cell = Cell("crash", "compat", 3)
    assert [line["seed"] for line in done(lines, "c0de")[cell]] == [0, 2]
    assert [line["seed"] for line in done(lines, None)[cell]] == [0, 1, 2]


def test_the_command_appends_goes_on_and_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, page = tmp_path / "results.jsonl", tmp_path / "page.md"
    page.write_text(f"# Before\n{BEGIN}\nold\n{END}\nafter\n")
    words = [
        "--profile",
        "compat",
        "--n",
        "3",
        "--loss",
        "0",
        "--kind",
        "crash",
        "--results",
        str(results),
        "--page",
        str(page),
    ]
    assert command.main([*words, "--budget", "0"]) == 0
    assert not results.exists()
    monkey = measure.tasks
    try:
        measure.tasks = lambda: iter([Task(Cell("crash", "compat", 3), 60, 0)])
        assert command.main([*words, "--budget", "5"]) == 0
    finally:
        measure.tasks = monkey
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line["seed"] for line in lines] == [0, 1]
    assert "everything that was asked for is measured" in capsys.readouterr().out
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("# Before\n")
    assert text.endswith("\nafter\n")
    assert "| compat | 3 | " in text
    assert "| 60 | 0-1 |" in text


def test_one_chunk_can_be_done_again_by_its_seed(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["chunk", "--kind", "crash", "--profile", "compat", "--n", "3", "--seed", "7"]
    assert command.main(words) == 0
    assert json.loads(capsys.readouterr().out) == measure.measure(Cell("crash", "compat", 3), 7)


def test_the_chaos_command_runs_one_seed_or_many(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["chaos", "--profile", "compat", "--n", "3", "--seed", "5"]) == 0
    assert "1 passed, 0 failed" in capsys.readouterr().out
    assert command.main(["chaos", "--profile", "compat", "--n", "2", "--runs", "2"]) == 0
    assert "2 passed, 0 failed" in capsys.readouterr().out


def test_a_page_without_a_place_for_the_tables_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="no place for the tables"):
        tables.write(page, {}, "")


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(value) for value in range(1, 101)]
    assert percentile(values, 0.5) == 50.0
    assert percentile(values, 0.99) == 99.0
    assert percentile([3.0], 0.99) == 3.0


def test_the_code_is_known_by_what_it_does_and_not_by_what_it_says() -> None:
    assert measure.code() == measure.code()
    assert len(measure.code()) == 8

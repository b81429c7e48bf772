"""Lines are JSON objects with the promised keys, and no secret gets into one."""

import io
import json
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import pytest

from telemetry.log import BLANK, blanked, configure, get_logger


def lines(stream: io.BytesIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_the_promised_keys_first() -> None:
    stream = io.BytesIO()
    configure("info", component="speaker", stream=stream)
    before = time.monotonic()
    get_logger("engine").info("address_taken_over", address="192.0.2.10", after_s=3.1)
    (line,) = lines(stream)
    assert list(line)[:6] == ["ts", "mono", "level", "caller", "component", "msg"]
    assert before - 0.001 <= line["mono"] <= time.monotonic()
    assert line["ts"].endswith("Z")
    assert line["caller"].startswith("test_log.py:")
    del line["ts"], line["mono"], line["caller"]
    assert line == {
        "level": "info",
        "component": "speaker",
        "msg": "address_taken_over",
        "part": "engine",
        "address": "192.0.2.10",
        "after_s": 3.1,
    }


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("all", ["debug", "info", "warn", "error"]),
        ("debug", ["debug", "info", "warn", "error"]),
        ("info", ["info", "warn", "error"]),
        ("warn", ["warn", "error"]),
        ("error", ["error"]),
        ("none", []),
    ],
)
def test_levels_go_from_all_to_none(level: str, said: list[str]) -> None:
    stream = io.BytesIO()
    configure(level, component="c", stream=stream)
    log = get_logger("x")
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert [line["level"] for line in lines(stream)] == said


def test_an_exception_brings_its_traceback() -> None:
    stream = io.BytesIO()
    configure("info", component="c", stream=stream)
    try:
        int("odd")
    except ValueError as error:
        get_logger("x").exception("failed")
        get_logger("x").warning("failed", exc_info=error)
    first, second = lines(stream)
    assert (first["level"], second["level"]) == ("error", "warn")
    assert first["error"] == second["error"] == "ValueError: invalid literal for int() with base 10: 'odd'"
    assert "test_log.py" in first["traceback"]


def test_what_libraries_log_is_in_the_same_stream() -> None:
    stream = io.BytesIO()
    configure("info", component="c", stream=stream)
    logging.getLogger("aiohttp.client").warning("lost %s", "connection")
    logging.getLogger("aiohttp.client").info("chatter")
    try:
        Path("/nowhere").read_text(encoding="utf-8")
    except OSError:
        logging.getLogger("asyncio").exception("hook failed")
    first, second = lines(stream)
    assert (first["msg"], first["part"], first["level"]) == ("lost connection", "aiohttp.client", "warn")
    assert (second["level"], second["error"]) == ("error", "FileNotFoundError: [Errno 2] No such file or directory: '/nowhere'")


def test_warnings_of_python_are_lines_too() -> None:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure("info", component="c", stream=stream)
        warnings.warn("old thing", UserWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    assert "old thing" in lines(stream)[0]["msg"]


def test_a_part_may_name_another_component() -> None:
    stream = io.BytesIO()
    configure("info", component="speaker", stream=stream)
    get_logger("gossip").bind(component="Memberlist").info("joined")
    assert lines(stream)[0]["component"] == "Memberlist"


@pytest.mark.parametrize("key", ["password", "token", "Authorization", "secret", "secret_key", "client-key-data", "passwd"])
def test_a_fact_with_the_name_of_a_secret_is_blanked(key: str) -> None:
    assert blanked(key, "s3cret") == BLANK
    assert blanked(key, {"inner": "s3cret"}) == BLANK
    assert blanked(key, "") == ""


def test_secrets_inside_of_documents_and_texts_are_blanked() -> None:
    document = {"spec": {"password": "p", "peers": [{"token": "t", "address": "192.0.2.1"}]}, "raw": b"k", "key": "ns/name"}
    assert blanked("document", document) == {
        "spec": {"password": BLANK, "peers": [{"token": BLANK, "address": "192.0.2.1"}]},
        "raw": "1 bytes",
        "key": "ns/name",
    }
    assert blanked("error", "sent Authorization: Bearer eyJhbGciOi") == f"sent Authorization: {BLANK}"


def test_names_of_objects_are_no_secrets() -> None:
    assert blanked("ml_secret_name", "metallb-memberlist") == "metallb-memberlist"
    assert blanked("service", "default/token-server") == "default/token-server"


def test_a_reader_that_went_away_does_not_stop_the_process() -> None:
    stream = io.BytesIO()
    configure("info", component="c", stream=stream)
    stream.close()
    get_logger("x").info("first")
    get_logger("x").info("second")

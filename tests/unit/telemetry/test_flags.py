"""The command line means what it means to Go's flag package, and what cannot be meant is said."""

import pytest

from telemetry.flags import Flag, FlagError, HelpAsked, parse, parse_or_exit, usage

TABLE = (
    Flag(name="port", default=9120, help="Metrics port.", low=0, high=65535),
    Flag(name="wait", default=1, help="Rounds.", low=1),
    Flag(name="depth", default=1, help="Levels.", high=9),
    Flag(name="node-name", env="METALLB_NODE_NAME", help="This node."),
    Flag(name="log-level", default="info", choices=("debug", "info"), help="What is logged."),
    Flag(name="webhook-http2", default=False, help="HTTP/2.", not_yet="the webhooks"),
    Flag(name="mode", choices=("", "fast"), help="How."),
    Flag(env="METALLB_BGP_TYPE", choices=("", "native", "frr"), help="Which BGP.", not_yet="BGP"),
)


@pytest.mark.parametrize(
    "arguments",
    [["--port=1"], ["-port=1"], ["--port", "1"], ["-port", "1"], ["--port=7", "--port=1"]],
)
def test_one_dash_or_two_with_equals_or_space_and_the_last_wins(arguments: list[str]) -> None:
    assert parse(TABLE, arguments, {}).integer("port") == 1


@pytest.mark.parametrize(
    ("arguments", "value"),
    [(["--webhook-http2"], True), (["-webhook-http2=true"], True), (["--webhook-http2=f"], False), ([], False)],
)
def test_a_switch_needs_no_value(arguments: list[str], value: bool) -> None:  # noqa: FBT001 - parametrized
    assert parse(TABLE, arguments, {}).switch("webhook-http2") is value


def test_a_flag_beats_its_variable_and_an_empty_variable_counts_as_unset() -> None:
    assert parse(TABLE, [], {"METALLB_NODE_NAME": "n1"}).text("node-name") == "n1"
    assert parse(TABLE, ["--node-name=n2"], {"METALLB_NODE_NAME": "n1"}).text("node-name") == "n2"
    parsed = parse(TABLE, [], {"METALLB_NODE_NAME": ""})
    assert parsed.text("node-name") == ""
    assert parsed.given == frozenset()


def test_a_value_may_begin_with_a_dash_or_hold_equals_signs() -> None:
    assert parse(TABLE, ["--node-name", "-odd"], {}).text("node-name") == "-odd"
    assert parse(TABLE, ["--node-name=a=b"], {}).text("node-name") == "a=b"


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (["--colour=red"], {}, "unknown flag --colour; --help lists the flags"),
        (["--port=x"], {}, "flag --port: 'x' is not a whole number"),
        (["--port=70000"], {}, "flag --port: 70000 is out of range; 0 to 65535"),
        (["--wait=0"], {}, "flag --wait: 0 is out of range; at least 1"),
        (["--depth=10"], {}, "flag --depth: 10 is out of range; at most 9"),
        (["--port"], {}, "flag --port needs a value: --port=VALUE"),
        (["--webhook-http2=maybe"], {}, "flag --webhook-http2: 'maybe' is not a truth value; use true or false"),
        (["--webhook-http2", "false"], {}, "unexpected argument 'false': only flags are taken, and a switch takes"),
        (["--log-level=loud"], {}, "flag --log-level: 'loud' is not one of debug, info"),
        ([], {"METALLB_BGP_TYPE": "bird"}, "environment variable METALLB_BGP_TYPE: 'bird' is not one of \"\", native, frr"),
        (["---port=1"], {}, "bad flag syntax '---port=1'"),
        (["--=1"], {}, "bad flag syntax '--=1'"),
        (["--"], {}, "unexpected argument '--'"),
        (["--METALLB_BGP_TYPE=frr"], {}, "unknown flag --METALLB_BGP_TYPE"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_remedy(arguments: list[str], environment: dict[str, str], message: str) -> None:
    with pytest.raises(FlagError) as caught:
        parse(TABLE, arguments, environment)
    assert message in str(caught.value)


def test_settings_without_effect_are_reported_only_when_given_another_value() -> None:
    parsed = parse(TABLE, ["--webhook-http2=false"], {"METALLB_BGP_TYPE": "frr"})
    assert [flag.key for flag in parsed.not_in_effect] == ["METALLB_BGP_TYPE"]
    assert parsed.text("METALLB_BGP_TYPE") == "frr"


@pytest.mark.parametrize("argument", ["-h", "-help", "--help"])
def test_help_is_asked_in_any_form(argument: str) -> None:
    with pytest.raises(HelpAsked):
        parse(TABLE, [argument], {})


def test_help_names_every_setting_with_its_default_and_variable() -> None:
    text = usage("controller", TABLE)
    assert "  --port int\n        Metrics port. (0 to 65535; default 9120)" in text
    assert "This node. (environment variable METALLB_NODE_NAME)" in text
    assert "HTTP/2. (default false; accepted, not yet in effect: the webhooks)" in text
    assert "Environment variables:\n  METALLB_BGP_TYPE\n" in text
    assert "Environment variables" not in usage("controller", TABLE[:2])


def test_main_exits_1_with_one_line_when_a_flag_is_bad(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_or_exit("speaker", TABLE, ["--colour=red"], {})
    assert caught.value.code == 1
    assert capsys.readouterr().err == "speaker: unknown flag --colour; --help lists the flags\n"


def test_main_exits_0_when_help_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_or_exit("speaker", TABLE, ["--help"], {})
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("Usage: speaker [flags]\n")
    assert parse_or_exit("speaker", TABLE, ["--port=1"], {}).integer("port") == 1

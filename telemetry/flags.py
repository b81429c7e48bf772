"""How an operator talks to a process before it runs: flags and environment variables, from one table per daemon.

The settings module of each daemon holds the table; this module reads a command line with it. The syntax is that of Go's
flag package, because manifests written for MetalLB must work unchanged: one dash or two, `--port=1` or `--port 1`,
`--switch` or `--switch=false`, the last of several wins, a flag beats its environment variable, an empty variable counts
as unset. What Go would silently ignore (an argument that belongs to no flag) is an error here. It knows no flag by name
and gives no value a meaning.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NoReturn

Value = str | int | bool

EXIT_BAD_FLAGS: Final = 1

_TRUE: Final = frozenset({"1", "t", "T", "true", "TRUE", "True"})  # As strconv.ParseBool of Go has it.
_FALSE: Final = frozenset({"0", "f", "F", "false", "FALSE", "False"})
_KINDS: Final = {str: "string", int: "int", bool: "true|false"}


class FlagError(Exception):
    """What the operator gave cannot be used. The message names the flag or variable, the value and the remedy."""


class HelpAsked(Exception):  # noqa: N818 - it is not an error
    """The command line asks for the list of flags."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One setting. The type of `default` is the type of the value.

    Attributes:
        name: without dashes; empty for a setting that only the environment can give.
        default: what holds when neither the flag nor its variable is given.
        help: one sentence for --help and for the reference page.
        env: the variable that stands in for the flag; empty for none.
        choices: the texts allowed; empty allows any.
        low: least value of an int.
        high: greatest value of an int.
        not_yet: accepted for compatibility, without effect for now; says what will read it.

    """

    name: str = ""
    default: Value = ""
    help: str = ""
    env: str = ""
    choices: tuple[str, ...] = ()
    low: int | None = None
    high: int | None = None
    not_yet: str | None = None

    @property
    def key(self) -> str:
        """The name under which Parsed keeps the value."""
        return self.name or self.env


@dataclass(frozen=True, slots=True)
class Parsed:
    """The value of every setting of a table, and which of them the operator gave."""

    values: Mapping[str, Value]
    given: frozenset[str]
    not_in_effect: tuple[Flag, ...]
    """Settings given with another value than their default, whose feature comes later: to be logged once."""

    def text(self, key: str) -> str:
        """The value of a string setting."""
        value = self.values[key]
        assert isinstance(value, str), key
        return value

    def integer(self, key: str) -> int:
        """The value of an int setting."""
        value = self.values[key]
        assert isinstance(value, int), key
        return value

    def switch(self, key: str) -> bool:
        """The value of a true-or-false setting."""
        value = self.values[key]
        assert isinstance(value, bool), key
        return value


def parse(table: Sequence[Flag], arguments: Sequence[str], environment: Mapping[str, str]) -> Parsed:
    """The settings that a command line (without the program's name) and an environment give.

    Raises:
        FlagError: an unknown flag, a missing or bad value, an argument that belongs to no flag.
        HelpAsked: -h, -help or --help came first.

    """
    by_name = {flag.name: flag for flag in table if flag.name}
    values: dict[str, Value] = {flag.key: flag.default for flag in table}
    given: set[str] = set()
    for flag in table:
        text = environment.get(flag.env, "") if flag.env else ""
        if text:
            values[flag.key] = _read(flag, text, f"environment variable {flag.env}")
            given.add(flag.key)
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, has_value, text = _split(argument)
        if name in {"h", "help"} and name not in by_name:
            raise HelpAsked
        if name not in by_name:
            raise FlagError(f"unknown flag --{name}; --help lists the flags")
        flag = by_name[name]
        if not has_value:
            if isinstance(flag.default, bool):
                text = "true"
            elif rest:
                text = rest.pop(0)
            else:
                raise FlagError(f"flag --{name} needs a value: --{name}=VALUE")
        values[flag.key] = _read(flag, text, f"flag --{name}")
        given.add(flag.key)
    late = tuple(flag for flag in table if flag.not_yet and flag.key in given and values[flag.key] != flag.default)
    return Parsed(values, frozenset(given), late)


def _split(argument: str) -> tuple[str, bool, str]:
    """The name of a flag, whether a value stands behind `=`, and that value."""
    dashes = len(argument) - len(argument.lstrip("-"))
    name, equals, text = argument[dashes:].partition("=")
    if dashes == 0 or (dashes <= 2 and not argument[dashes:]):
        raise FlagError(f"unexpected argument {argument!r}: only flags are taken, and a switch takes its value after '='")
    if dashes > 2 or not name:
        raise FlagError(f"bad flag syntax {argument!r}: write --name=value")
    return name, bool(equals), text


def _read(flag: Flag, text: str, origin: str) -> Value:
    """The value that a text means for a flag."""
    if isinstance(flag.default, bool):
        if text not in _TRUE | _FALSE:
            raise FlagError(f"{origin}: {text!r} is not a truth value; use true or false")
        return text in _TRUE
    if isinstance(flag.default, int):
        try:
            number = int(text, 10)
        except ValueError:
            raise FlagError(f"{origin}: {text!r} is not a whole number") from None
        if (flag.low is not None and number < flag.low) or (flag.high is not None and number > flag.high):
            raise FlagError(f"{origin}: {number} is out of range; {_range(flag)}")
        return number
    if flag.choices and text not in flag.choices:
        allowed = ", ".join(choice or '""' for choice in flag.choices)
        raise FlagError(f"{origin}: {text!r} is not one of {allowed}")
    return text


def _range(flag: Flag) -> str:
    if flag.low is None:
        return f"at most {flag.high}"
    return f"at least {flag.low}" if flag.high is None else f"{flag.low} to {flag.high}"


def usage(program: str, table: Sequence[Flag]) -> str:
    """The text of --help: every flag with its type, default, variable and meaning."""
    lines = [f"Usage: {program} [flags]", "", "Flags (one dash or two):"]
    for flag in table:
        if not flag.name:
            continue
        lines.append(f"  --{flag.name} {_KINDS[type(flag.default)]}")
        lines.append(f"        {_sentence(flag)}")
    variables = [flag for flag in table if not flag.name]
    if variables:
        lines += ["", "Environment variables:"]
        for flag in variables:
            lines += [f"  {flag.env}", f"        {_sentence(flag)}"]
    return "\n".join(lines) + "\n"


def _sentence(flag: Flag) -> str:
    facts = []
    if flag.choices:
        facts.append("one of " + ", ".join(choice or '""' for choice in flag.choices))
    if flag.low is not None or flag.high is not None:
        facts.append(_range(flag))
    if flag.env and flag.name:
        facts.append(f"environment variable {flag.env}")
    if flag.default != "":
        facts.append(f"default {str(flag.default).lower() if isinstance(flag.default, bool) else flag.default}")
    if flag.not_yet:
        facts.append(f"accepted, not yet in effect: {flag.not_yet}")
    return flag.help + (f" ({'; '.join(facts)})" if facts else "")


def parse_or_exit(program: str, table: Sequence[Flag], arguments: Sequence[str], environment: Mapping[str, str]) -> Parsed:
    """As parse, for main(): --help prints the flags and exits 0; an error is one line on stderr and exit status 1."""
    try:
        return parse(table, arguments, environment)
    except HelpAsked:
        sys.stdout.write(usage(program, table))
        raise SystemExit(0) from None
    except FlagError as error:
        refuse(program, error)


def refuse(program: str, error: FlagError) -> NoReturn:
    """Say what is wrong with the settings in one line on stderr and exit with status 1."""
    sys.stderr.write(f"{program}: {error}\n")
    raise SystemExit(EXIT_BAD_FLAGS) from error

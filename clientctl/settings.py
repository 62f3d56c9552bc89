"""What the command line was told beside its verb: flags, then environment, then a TOML file, then defaults.

As with etcdctl these flags may stand before or after the verb. Imports nothing that takes long to load.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import click

from clientctl.config import DIAL_TIMEOUT_S, TIMEOUT_S
from clientctl.endpoints import parse_endpoint

WriteOut = Literal["simple", "json", "table"]
_Decorated = TypeVar("_Decorated", bound=Callable[..., Any] | click.Command)

_DURATION_UNITS_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|ns)")
_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+")
_GIVEN = "clientctl.given"


@dataclass(frozen=True, slots=True)
class Settings:
    """The global flags. Times in seconds."""

    endpoints: tuple[str, ...] = ("127.0.0.1:2379",)
    write_out: WriteOut = "simple"
    timeout: float = TIMEOUT_S
    dial_timeout: float = DIAL_TIMEOUT_S
    hex: bool = False


def parse_duration(text: str) -> float:
    """Seconds in `5s`, `300ms`, `1m30s`; a bare number is seconds. Raises ValueError."""
    text = text.strip()
    seconds, position = 0.0, 0
    while match := _DURATION_PART.match(text, position):
        seconds += float(match[1]) * _DURATION_UNITS_S[match[2]]
        position = match.end()
    if position == 0 and _NUMBER.fullmatch(text):
        seconds, position = float(text), len(text)
    if position != len(text) or not 0 < seconds < float("inf"):
        raise ValueError(f"{text!r} is not a positive duration such as 5s or 300ms")
    return seconds


def parse_endpoints(text: str) -> tuple[str, ...]:
    """A comma-separated list of addresses, kept as written, because outputs name them so. Raises
    ValueError."""
    endpoints = tuple(part.strip() for part in text.split(",") if part.strip())
    if not endpoints:
        raise ValueError("names no endpoint")
    for endpoint in endpoints:
        parse_endpoint(endpoint)
    return endpoints


def parse_write_out(text: str) -> str:
    """One of the output formats. Raises ValueError."""
    # etcdctl takes -w=json as well as -w json and -wjson.
    text = text.removeprefix("=")
    if text not in ("simple", "json", "table"):
        raise ValueError(f"{text!r} is not one of simple, json, table")
    return text


def parse_boolean(text: str) -> bool:
    """A switch that is set in a file or a variable. Raises ValueError."""
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() in ("true", "1")


def read_config_file(path: str) -> dict[str, Any]:
    """The settings in a TOML file, by name. Raises ValueError with a text that names file and setting."""
    import tomllib

    try:
        with open(path, "rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    settings: dict[str, Any] = {}
    for key, entry in table.items():
        name = key.replace("-", "_")
        name = "timeout" if name == "command_timeout" else name
        if name not in _FLAGS or name == "config_file":
            raise ValueError(f"{path}: unknown setting {key!r}")
        if name in settings:
            raise ValueError(f"{path}: {key!r} is given twice")
        if isinstance(entry, list) and name == "endpoints":
            entry = ",".join(map(str, entry))
        try:
            settings[name] = _FLAGS[name].parse(str(entry))
        except ValueError as error:
            raise ValueError(f"{path}: {key}: {error}") from None
    return settings


@dataclass(frozen=True, slots=True)
class _Flag:
    """How one global flag is spelled and read."""

    spellings: tuple[str, ...]
    parse: Callable[[str], Any]
    help: str
    metavar: str | None = None


_FLAGS: Mapping[str, _Flag] = {
    "endpoints": _Flag(("--endpoints",), parse_endpoints, "Servers to use, parted by commas.", "HOST:PORT,…"),
    "write_out": _Flag(("-w", "--write-out"), parse_write_out, "Output format.", "simple|json|table"),
    "timeout": _Flag(
        ("--timeout", "--command-timeout"),
        parse_duration,
        "Time for the command, such as 5s or 300ms.",
        "TIME",
    ),
    "dial_timeout": _Flag(("--dial-timeout",), parse_duration, "Time to find a server that answers.", "TIME"),
    "hex": _Flag(("--hex",), parse_boolean, r"Show bytes as \xNN in simple output."),
    "config_file": _Flag(("--config-file",), read_config_file, "TOML file with these settings.", "FILE"),
}


def global_options(*, root: bool = False) -> Callable[[_Decorated], _Decorated]:
    """Give a command the global flags. Only the root shows them and reads CLIENTCTL_… from the
    environment."""

    def decorate(command: _Decorated) -> _Decorated:
        for name, flag in reversed(list(_FLAGS.items())):
            variables = [f"CLIENTCTL_{name.upper()}"] if root else None
            if variables and name == "timeout":
                variables.append("CLIENTCTL_COMMAND_TIMEOUT")
            # A switch is given without a value, but its variable has one.
            switch: dict[str, Any] = {"is_flag": True, "flag_value": "true"} if flag.metavar is None else {}
            command = click.option(
                *flag.spellings,
                f"_{name}",
                default=None,
                **switch,
                type=str,
                metavar=flag.metavar,
                help=flag.help,
                expose_value=False,
                envvar=variables,
                allow_from_autoenv=False,
                hidden=not root,
                callback=partial(_remember, name),
            )(command)
        return command

    return decorate


def _remember(name: str, context: click.Context, parameter: click.Parameter, value: str | None) -> None:
    """Keep what was given: a flag after the verb counts more than one before it, and that more than a
    variable."""
    if value is None:
        return
    try:
        parsed = _FLAGS[name].parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None
    context.find_root().meta.setdefault(_GIVEN, {})[name] = parsed


def settings_of(context: click.Context) -> Settings:
    """The settings in force for a verb."""
    given = dict(context.find_root().meta.get(_GIVEN, {}))
    file = given.pop("config_file", {})
    return Settings(**{**file, **given})

"""A program's options: from flags, environment, TOML file and defaults into one frozen dataclass.

The dataclass is the declaration: each field's metadata is an `option`. Precedence: flag, environment
variable, file, default. Whatever is wrong becomes a `ConfigurationError`, one line that names where it was
said and what to do. Knows no particular program; `proto.shell` calls it for both daemons.
"""

import dataclasses
import difflib
import textwrap
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

_T = TypeVar("_T")
_C = TypeVar("_C", bound="Configuration")
_Fields = Mapping[str, "dataclasses.Field[Any]"]

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
HELP_WIDTH: Final = 100
SHOWN_VALUE_CHARACTERS: Final = 60


class ConfigurationError(Exception):
    """The options cannot be used. One line: what is wrong, where it was said, what would be right."""


class Answered(Exception):
    """`--help` or `--version` was given: the text is to be printed, and nothing to be run."""


def option(flag: str, parse: Callable[[str], Any], help: str, metavar: str = "") -> Mapping[str, Any]:
    """The metadata of a field: `name: str = field(default="default", metadata=option("name", text, "..."))`.

    `flag` without dashes ("data-dir") is also the key in the file; the environment variable comes from it
    (RAFTD_DATA_DIR). `parse` turns text into the value or raises ValueError saying what is wanted ("a whole
    number from 1"). With `boolean` for `parse`, a bare flag means true. A field without default must be
    given.
    """
    return {"flag": flag, "parse": parse, "help": help, "metavar": metavar or flag.split("-")[-1].upper()}


# How options are parsed.


def text(value: str) -> str:
    if not value:
        raise ValueError("something")
    return value


def path(value: str) -> Path:
    return Path(text(value))


def boolean(value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError("true or false")
    return value == "true"


def integer(low: int, high: int) -> Callable[[str], int]:
    """Whole numbers from `low` to `high`."""

    def parse(value: str) -> int:
        digits = value.removeprefix("-")
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 20 and low <= int(value) <= high):
            raise ValueError(f"a whole number from {low} to {high}")
        return int(value)

    return parse


def choice(*allowed: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in allowed:
            raise ValueError(f"one of {', '.join(allowed)}")
        return value

    return parse


def listing(parse: Callable[[str], _T]) -> Callable[[str], tuple[_T, ...]]:
    """Values separated by commas; in the file an array will do as well."""
    return lambda value: tuple(parse(part.strip()) for part in text(value).split(","))


def host_port(value: str) -> str:
    """An address such as 127.0.0.1:2379, example.org:2379 or [::1]:2379."""
    host, _, port = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    number = port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) <= 65535
    if not host or not number or (":" in host and not bracketed) or any(c in host for c in "/@ "):
        raise ValueError("HOST:PORT")
    return value


def url(value: str) -> str:
    """A URL http://HOST:PORT or https://HOST:PORT, returned without a trailing slash."""
    scheme, _, rest = value.removesuffix("/").partition("://")
    try:
        return f"{choice('http', 'https')(scheme)}://{host_port(rest)}"
    except ValueError:
        raise ValueError("http://HOST:PORT") from None


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What every daemon has. A program derives its own and adds fields."""

    config_file: Path | None = field(
        default=None, metadata=option("config-file", path, "TOML file to read options from.")
    )
    log_level: str = field(
        default="info", metadata=option("log-level", choice(*LOG_LEVELS), f"{'|'.join(LOG_LEVELS)}.")
    )

    def check(self) -> None:
        """Raise `ConfigurationError` when options contradict each other."""


@dataclass(frozen=True, slots=True)
class _Given:
    """One option's text and where it stood, for example "--name" or "RAFTD_NAME"."""

    value: str
    where: str


def load(
    kind: type[_C],
    program: str,
    version: str,
    about: str,
    arguments: Sequence[str],
    environ: Mapping[str, str],
) -> _C:
    """The configuration, checked. Raises `ConfigurationError`, or `Answered` for --help and --version."""
    fields = {it.metadata["flag"]: it for it in dataclasses.fields(kind)}
    given = _from_arguments(program, fields, arguments)
    if "help" in given:
        raise Answered(_help(program, about, fields))
    if "version" in given:
        raise Answered(f"{program} {version}")
    for flag in fields:
        variable = _variable(program, flag)
        # As in etcd, a variable that is set to nothing is not set.
        if flag not in given and environ.get(variable):
            given[flag] = _Given(environ[variable], variable)
    if "config-file" in given:
        file: Path = _parsed(fields["config-file"], given["config-file"])
        given = _from_file(file, fields) | given
    for flag, it in fields.items():
        if flag not in given and _is_required(it):
            ways = f"set {_variable(program, flag)}, or {flag} in the --config-file"
            raise ConfigurationError(f"--{flag} is missing; give it, or {ways}")
    configuration = kind(**{fields[flag].name: _parsed(fields[flag], it) for flag, it in given.items()})
    configuration.check()
    return configuration


def changed(configuration: Configuration) -> dict[str, str]:
    """The options that differ from their defaults, by flag; for the log line at the start."""
    values = {it: getattr(configuration, it.name) for it in dataclasses.fields(configuration)}
    return {it.metadata["flag"]: _shown(value) for it, value in values.items() if value != it.default}


def _variable(program: str, flag: str) -> str:
    return f"{program}_{flag}".upper().replace("-", "_")


def _is_required(it: "dataclasses.Field[Any]") -> bool:
    return it.default is dataclasses.MISSING


def _from_arguments(program: str, fields: _Fields, arguments: Sequence[str]) -> dict[str, _Given]:
    given: dict[str, _Given] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--") and argument != "-h":
            raise ConfigurationError(f"unexpected argument {_short(argument)}; see {program} --help")
        flag, equals, value = ("help" if argument == "-h" else argument[2:]).partition("=")
        if flag in ("help", "version"):
            return {flag: _Given("", argument)}
        if flag not in fields:
            raise ConfigurationError(
                f"unknown flag --{flag}{_meant(flag, fields, '--')}; see {program} --help"
            )
        if flag in given:
            raise ConfigurationError(f"--{flag} is given twice; give it once")
        if not equals:
            value = _next_value(flag, fields[flag].metadata["parse"] is boolean, rest)
        given[flag] = _Given(value, f"--{flag}")
    return given


def _next_value(flag: str, is_boolean: bool, rest: list[str]) -> str:
    if is_boolean:
        return rest.pop(0) if rest and rest[0] in ("true", "false") else "true"
    if not rest or rest[0].startswith("--"):
        raise ConfigurationError(f"--{flag} needs a value")
    return rest.pop(0)


def _from_file(file: Path, fields: _Fields) -> dict[str, _Given]:
    try:
        keys = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"cannot read --config-file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"--config-file {file} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"--config-file {file} is not valid TOML: {error}") from None
    given = {}
    for key, value in keys.items():
        where = f"{key} in {file}"
        if key not in fields or key == "config-file":
            raise ConfigurationError(f"unknown key {where}{_meant(key, fields, '')}; remove or correct it")
        given[key] = _Given(_as_text(value, where), where)
    return given


def _as_text(value: Any, where: str) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str() | int():
            return str(value)
        case list() if value and all(isinstance(part, str) for part in value):
            return ",".join(value)
    raise ConfigurationError(f"{where} must be a string, a whole number, true, false or an array of strings")


def _parsed(it: "dataclasses.Field[Any]", given: _Given) -> Any:
    try:
        return it.metadata["parse"](given.value)
    except ValueError as error:
        raise ConfigurationError(f"{given.where} must be {error}, not {_short(given.value)}") from None


def _meant(name: str, known: Iterable[str], dashes: str) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {dashes}{close[0]}?)" if close else ""


def _short(value: str) -> str:
    too_long = len(value) > SHOWN_VALUE_CHARACTERS
    return repr(value[:SHOWN_VALUE_CHARACTERS] + "..." if too_long else value)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _help(program: str, about: str, fields: _Fields) -> str:
    lines = [f"Usage: {program} [--FLAG VALUE]...", "", *textwrap.wrap(about, HELP_WIDTH), ""]
    for flag, it in fields.items():
        is_boolean = it.metadata["parse"] is boolean
        lines.append(f"  --{flag}" if is_boolean else f"  --{flag} {it.metadata['metavar']}")
        ending = f"default: {_shown(it.default)}"
        if _is_required(it):
            ending = "required"
        elif it.default in (None, ()):
            ending = "no default"
        description = f"{it.metadata['help']} [{ending}; {_variable(program, flag)}]"
        lines += textwrap.wrap(description, HELP_WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    lines += ["  -h, --help", "      Show this.", "  --version", "      Show the version.", ""]
    ways = "Each flag may also be an environment variable, or a key (without dashes) in the TOML file."
    precedence = (
        "A flag takes precedence over a variable, a variable over the file, the file over the default."
    )
    return "\n".join([*lines, *textwrap.wrap(f"{ways} {precedence}", HELP_WIDTH)])

"""The text form of a transaction, as etcdctl reads it: comparisons, success and failure operations.

Three sections, each ended by an empty line:

    value("k") = "v"
    version("k") > "0"

    put k "new value"
    get k

    del k

Pure: reads lines, returns comparisons and the words of each operation.
"""

import re
from collections.abc import Callable, Iterator
from typing import cast

from clientctl.requests import CompareTarget, Comparison, compare
from proto.rpc_pb2 import Compare

_TARGETS: dict[str, CompareTarget] = {
    "ver": "version",
    "version": "version",
    "c": "create",
    "create": "create",
    "m": "mod",
    "mod": "mod",
    "val": "value",
    "value": "value",
    "lease": "lease",
}
_QUOTED = r'"(?:[^"\\]|\\.)*"|`[^`]*`'
_COMPARISON = re.compile(rf"\s*(\w+)\(\s*({_QUOTED})\s*\)\s*(=|!=|<|>)\s*({_QUOTED}|-?\w+)\s*")
_WORD = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^'\"\s]\S*")
_ESCAPE = re.compile(
    rb"\\(?:([abfnrtv\\'\"])|([0-7]{3})|x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.?))",
    re.DOTALL,
)
_SIMPLE_ESCAPES = {
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"v": b"\v",
    b"\\": b"\\",
    b"'": b"'",
    b'"': b'"',
}


class ScriptError(ValueError):
    """The text is not a transaction; the message says which line."""


def read_section(read_line: Callable[[], str]) -> Iterator[str]:
    """The lines up to the next empty one. `read_line` returns "" at the end of the input."""
    while True:
        line = read_line()
        if not line:
            raise ScriptError("the input ended before the third empty line")
        line = line.rstrip("\r\n")
        if not line.strip():
            return
        yield line


def parse_comparison(line: str) -> Compare:
    """One comparison, such as `mod("key") > "5"`."""
    match = _COMPARISON.fullmatch(line)
    if match is None:
        raise ScriptError(f"malformed comparison: {line}")
    word, key, comparison, operand = match.groups()
    target = _TARGETS.get(word)
    if target is None:
        raise ScriptError(f"malformed comparison: {line} (unknown target {word})")
    value = unquote(operand)
    if target == "value":
        return compare(unquote(key), target, cast(Comparison, comparison), value)
    # A lease is written in hexadecimal, as everywhere in etcdctl.
    base = 16 if target == "lease" else 10
    try:
        number = int(value, base)
    except ValueError:
        raise ScriptError(f"malformed comparison: {line} ({operand} is not a number)") from None
    if not -(1 << 63) <= number < 1 << 63:
        raise ScriptError(f"malformed comparison: {line} ({operand} is too large)")
    return compare(unquote(key), target, cast(Comparison, comparison), number)


def split_words(line: str) -> list[bytes]:
    """The words of an operation's line: bare, 'as is' or "with escapes"."""
    words, position = [], 0
    for match in _WORD.finditer(line):
        if line[position : match.start()].strip():
            raise ScriptError(f"unbalanced quotes: {line}")
        position = match.end()
        words.append(unquote(match[0]))
    if line[position:].strip():
        raise ScriptError(f"unbalanced quotes: {line}")
    return words


def unquote(word: str) -> bytes:
    """The bytes that a bare or quoted word stands for."""
    text = word.encode("utf-8", "surrogateescape")
    if word[:1] in ("'", "`"):
        return text[1:-1]
    return _ESCAPE.sub(_unescape, text[1:-1]) if word[:1] == '"' else text


def _unescape(match: re.Match[bytes]) -> bytes:
    simple, octal, hexadecimal, short, long, _ = match.groups()
    if simple is not None:
        return _SIMPLE_ESCAPES[simple]
    if octal is not None and int(octal, 8) < 256:
        return bytes([int(octal, 8)])
    if hexadecimal is not None:
        return bytes([int(hexadecimal, 16)])
    code = short or long
    if code is not None and int(code, 16) <= 0x10FFFF and not 0xD800 <= int(code, 16) < 0xE000:
        return chr(int(code, 16)).encode()
    raise ScriptError(f"unknown escape {match[0].decode('utf-8', 'replace')} in a quoted string")

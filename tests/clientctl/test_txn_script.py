"""The text form of transactions."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clientctl.txn_script import ScriptError, parse_comparison, read_section, split_words, unquote
from proto.rpc_pb2 import Compare


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('value("k") = "v"', Compare(target=Compare.VALUE, result=Compare.EQUAL, key=b"k", value=b"v")),
        (
            ' val( "k" )!="v" ',
            Compare(target=Compare.VALUE, result=Compare.NOT_EQUAL, key=b"k", value=b"v"),
        ),
        ('version("k") > "0"', Compare(target=Compare.VERSION, result=Compare.GREATER, key=b"k", version=0)),
        ('ver("k") = 3', Compare(target=Compare.VERSION, result=Compare.EQUAL, key=b"k", version=3)),
        (
            'create("k") < "-1"',
            Compare(target=Compare.CREATE, result=Compare.LESS, key=b"k", create_revision=-1),
        ),
        ('m("k") = "7"', Compare(target=Compare.MOD, result=Compare.EQUAL, key=b"k", mod_revision=7)),
        ('lease("k") = "ff"', Compare(target=Compare.LEASE, result=Compare.EQUAL, key=b"k", lease=255)),
        ('val("a)\\"") = `b"`', Compare(target=Compare.VALUE, result=Compare.EQUAL, key=b'a)"', value=b'b"')),
    ],
)
def test_comparisons(line: str, expected: Compare) -> None:
    assert parse_comparison(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "",
        "k = v",
        'value(k) = "v"',
        'value("k")',
        'value("k") == "v"',
        'bogus("k") = "v"',
        'version("k") = "x"',
        'version("k") = "9223372036854775808"',
        'value("k") = "v" trailing',
        'value("\\q") = "v"',
    ],
)
def test_malformed_comparisons_are_named(line: str) -> None:
    with pytest.raises(ScriptError, match=r"malformed comparison|unknown escape"):
        parse_comparison(line)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("put k v", [b"put", b"k", b"v"]),
        ('put k "a b"', [b"put", b"k", b"a b"]),
        ("put k 'a \"b\"'", [b"put", b"k", b'a "b"']),
        ('put "k\\n" "\\x00\\377é\\u00e9"', [b"put", b"k\n", b"\x00\xff\xc3\xa9\xc3\xa9"]),
        ("  get   k --prefix ", [b"get", b"k", b"--prefix"]),
        ('put k ""', [b"put", b"k", b""]),
        ("get 'single'", [b"get", b"single"]),
        ("put k\tv\\x41", [b"put", b"k", b"v\\x41"]),
    ],
)
def test_words(line: str, words: list[bytes]) -> None:
    assert split_words(line) == words


@pytest.mark.parametrize(
    "line", ['put k "v', "put k 'v", 'put "\\400" v', 'put "\\ud800" v', 'put "\\xZZ" v']
)
def test_malformed_words(line: str) -> None:
    with pytest.raises(ScriptError):
        split_words(line)


@given(st.binary())
def test_every_value_can_be_written_in_quotes(data: bytes) -> None:
    quoted = '"' + "".join(f"\\x{byte:02x}" for byte in data) + '"'
    assert unquote(quoted) == data
    assert split_words(f"put k {quoted}") == [b"put", b"k", data]


@given(st.text())
def test_no_line_breaks_the_parser(line: str) -> None:
    for parse in (parse_comparison, split_words):
        try:
            parse(line)
        except ScriptError:
            continue


def lines(*texts: str) -> Iterator[str]:
    yield from texts
    while True:
        yield ""


def test_sections_end_at_empty_lines() -> None:
    source = lines("a\n", "b\r\n", "\n", "  \n", "c\n", "\n")
    sections = [list(read_section(lambda: next(source))) for _ in range(3)]
    assert sections == [["a", "b"], [], ["c"]]


def test_a_script_that_is_cut_off_is_not_run() -> None:
    """Half of a transaction may be the wrong half."""
    source = lines("a\n", "\n", "b\n")
    list(read_section(lambda: next(source)))
    with pytest.raises(ScriptError, match="ended before"):
        list(read_section(lambda: next(source)))

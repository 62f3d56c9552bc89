"""The ordered-map transaction: the same tests on LMDB and on the dict-backed one."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raftd.kv.transaction import Reader, Transaction
from raftd.store import Store, WriteTransaction
from raftd.store.tally import stored_hash
from tests.memory_transaction import MemoryTransaction
from tests.store.directories import TABLES, open_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with open_store(tmp_path_factory.mktemp("store") / "data") as opened:
        yield opened


@pytest.fixture(params=["lmdb", "memory"])
def transaction(request: pytest.FixtureRequest, store: Store) -> Iterator[Transaction]:
    if request.param == "memory":
        yield MemoryTransaction(TABLES)
        return
    writing = store.begin_write()
    yield writing
    abandon(store, writing)


def abandon(store: Store, transaction: WriteTransaction) -> None:
    """Forget what was written; a writer never does that and goes on, so the tallies are put right here."""
    transaction.lmdb.abort()
    for tally in store.state.tallies.values():
        tally.keys = tally.hash = 0


def scanned(
    reader: Reader, start: bytes = b"", end: bytes | None = None, reverse: bool = False
) -> list[bytes]:
    return [key for key, _ in reader.scan("keys", start, end, reverse)]


def test_a_transaction_sees_its_own_writes(transaction: Transaction) -> None:
    assert transaction.get("keys", b"a") is None
    transaction.put("keys", b"a", b"1")
    transaction.put("keys", b"a", b"2")
    assert transaction.get("keys", b"a") == b"2"
    assert transaction.get("results", b"a") is None
    assert transaction.delete("keys", b"a") is True
    assert transaction.delete("keys", b"a") is False
    assert transaction.get("keys", b"a") is None


def test_an_empty_value_is_a_value(transaction: Transaction) -> None:
    transaction.put("keys", b"a", b"")
    assert transaction.get("keys", b"a") == b""
    assert list(transaction.scan("keys", b"", None)) == [(b"a", b"")]
    assert transaction.delete("keys", b"a") is True


def test_values_may_be_large(transaction: Transaction) -> None:
    """etcd takes values of up to 1.5 MiB."""
    large = bytes(range(256)) * 8192
    transaction.put("keys", b"a", large)
    transaction.put("keys", b"a", large[1:])
    assert transaction.get("keys", b"a") == large[1:]


def test_scan_takes_the_start_and_leaves_the_end(transaction: Transaction) -> None:
    for key in (b"a", b"ab", b"b", b"b\x00", b"c", b"\xff\xff"):
        transaction.put("keys", key, b"")
    assert scanned(transaction) == [b"a", b"ab", b"b", b"b\x00", b"c", b"\xff\xff"]
    assert scanned(transaction, b"ab") == [b"ab", b"b", b"b\x00", b"c", b"\xff\xff"]
    assert scanned(transaction, b"aa", b"b\x00") == [b"ab", b"b"]
    assert scanned(transaction, b"b", b"b") == []
    assert scanned(transaction, b"c", b"a") == []
    assert scanned(transaction, b"ab", b"c", reverse=True) == [b"b\x00", b"b", b"ab"]
    assert scanned(transaction, b"", None, reverse=True) == [b"\xff\xff", b"c", b"b\x00", b"b", b"ab", b"a"]
    assert scanned(transaction, b"", b"a", reverse=True) == []
    assert scanned(transaction, b"d", b"e", reverse=True) == []
    assert scanned(transaction, b"", b"\xff\xff\xff", reverse=True)[0] == b"\xff\xff"


def test_a_scan_may_be_left_early_and_another_table_written(transaction: Transaction) -> None:
    for key in (b"a", b"b", b"c"):
        transaction.put("keys", key, key)
    seen = []
    for key, value in transaction.scan("keys", b"", None):
        transaction.put("results", key, value)
        seen.append(key)
        if key == b"b":
            break
    assert seen == [b"a", b"b"]
    assert [key for key, _ in transaction.scan("results", b"", None)] == [b"a", b"b"]
    transaction.put("keys", b"d", b"d")
    assert scanned(transaction, b"c") == [b"c", b"d"]


def test_a_scan_of_an_empty_table_ends_at_once(transaction: Transaction) -> None:
    assert scanned(transaction) == []
    assert scanned(transaction, b"a", b"b") == []
    assert scanned(transaction, b"", None, reverse=True) == []
    assert scanned(transaction, b"", b"b", reverse=True) == []


def test_keys_out_of_bounds_are_a_programmers_mistake(transaction: Transaction) -> None:
    """The state machine splits longer keys; a disk error it is not."""
    with pytest.raises(AssertionError):
        transaction.put("keys", b"x" * 512, b"")
    with pytest.raises(AssertionError):
        transaction.put("keys", b"", b"")
    with pytest.raises(AssertionError):
        transaction.get("keys", b"")
    with pytest.raises(AssertionError):
        transaction.delete("keys", b"")


def test_the_longest_key_is_taken(transaction: Transaction) -> None:
    transaction.put("keys", b"x" * 511, b"1")
    assert transaction.get("keys", b"x" * 511) == b"1"


KEYS = st.binary(min_size=1, max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.binary(max_size=8)),
        st.tuples(st.just("delete"), KEYS, st.none()),
        st.tuples(st.just("scan"), st.binary(max_size=3), st.none() | KEYS),
        st.tuples(st.just("reverse"), st.binary(max_size=3), st.none() | KEYS),
    ),
    max_size=40,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps=STEPS)
def test_both_answer_the_same(store: Store, steps: list[tuple[str, bytes, bytes | None]]) -> None:
    ours, memory = store.begin_write(), MemoryTransaction(TABLES)
    try:
        for what, key, other in steps:
            assert _answer(ours, what, key, other) == _answer(memory, what, key, other)
        _check_tallies(ours)
    finally:
        abandon(store, ours)


def _answer(transaction: Transaction, what: str, key: bytes, other: bytes | None) -> object:
    match what:
        case "put":
            assert other is not None
            transaction.put("keys", key, other)
            return None
        case "delete":
            return transaction.delete("keys", key)
        case _:
            return list(transaction.scan("keys", key, other, reverse=what == "reverse"))


def _check_tallies(transaction: WriteTransaction) -> None:
    """The bookkeeping of puts and deletes equals what counting anew gives."""
    records = list(transaction.scan_records("keys", b"", None))
    tally = transaction.tallies["keys"]
    assert tally.keys == len(records)
    assert tally.hash == sum(stored_hash(record) for _, record in records)

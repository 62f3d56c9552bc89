"""Range's options, each by itself: what `kvs`, `count` and `more` say."""

import pytest

from proto.rpc_pb2 import DeleteRangeRequest, PutRequest, RangeRequest, RangeResponse
from tests.kv.replica import Replica

ALL = {"key": b"\x00", "range_end": b"\x00"}


@pytest.fixture(scope="module")
def replica() -> Replica:
    """key: create/mod revision, version, value — a: 2/7, 2, z; b: 3/3, 1, y; c: 5/6, 2, y; d (deleted at
    8)."""
    store = Replica()
    for key, value in ((b"a", b"x"), (b"b", b"y"), (b"d", b""), (b"c", b""), (b"c", b"y"), (b"a", b"z")):
        store.call(PutRequest(key=key, value=value))
    store.call(DeleteRangeRequest(key=b"d"))
    return store


def get(replica: Replica, **fields: object) -> RangeResponse:
    response = replica.call(RangeRequest(**{**ALL, **fields}))  # type: ignore[arg-type]
    assert isinstance(response, RangeResponse)
    return response


def keys(response: RangeResponse) -> str:
    return b"".join(kv.key for kv in response.kvs).decode()


@pytest.mark.parametrize(
    ("key", "range_end", "expected"),
    [
        (b"b", b"", "b"),
        (b"d", b"", ""),
        (b"b", b"\x00", "bc"),
        (b"\x00", b"\x00", "abc"),
        (b"a", b"c", "ab"),
        (b"a\x00", b"b\x00", "b"),
        (b"b", b"b", ""),
        (b"c", b"a", ""),
        (b"\xff", b"\x00", ""),
    ],
)
def test_what_a_range_names(replica: Replica, key: bytes, range_end: bytes, expected: str) -> None:
    response = get(replica, key=key, range_end=range_end)
    assert (keys(response), response.count, response.more) == (expected, len(expected), False)
    assert response.header.revision == 8


@pytest.mark.parametrize(
    ("revision", "expected"),
    [(1, ""), (2, "a"), (3, "ab"), (4, "abd"), (5, "abcd"), (7, "abcd"), (8, "abc"), (0, "abc"), (-3, "abc")],
)
def test_a_range_at_a_revision(replica: Replica, revision: int, expected: str) -> None:
    response = get(replica, revision=revision)
    assert keys(response) == expected
    assert response.header.revision == 8, "the store's, not the one asked for"
    single = [
        get(replica, key=key, range_end=b"", revision=revision).count for key in (b"a", b"b", b"c", b"d")
    ]
    assert sum(single) == len(expected)


def test_a_key_at_a_revision_is_the_version_of_then(replica: Replica) -> None:
    (kv,) = get(replica, key=b"a", range_end=b"", revision=6).kvs
    assert (kv.value, kv.create_revision, kv.mod_revision, kv.version) == (b"x", 2, 2, 1)
    (kv,) = get(replica, key=b"a", range_end=b"").kvs
    assert (kv.value, kv.create_revision, kv.mod_revision, kv.version) == (b"z", 2, 7, 2)


@pytest.mark.parametrize(
    ("target", "ascending"),
    [
        (RangeRequest.KEY, "abc"),
        (RangeRequest.VERSION, "bac"),
        (RangeRequest.CREATE, "abc"),
        (RangeRequest.MOD, "bca"),
        (RangeRequest.VALUE, "bca"),
    ],
)
def test_every_sort_target_with_every_order(
    replica: Replica, target: RangeRequest.SortTarget.ValueType, ascending: str
) -> None:
    assert keys(get(replica, sort_target=target, sort_order=RangeRequest.ASCEND)) == ascending
    assert keys(get(replica, sort_target=target)) == ascending
    descending = {"bac": "acb", "abc": "cba", "bca": "acb"}[ascending]
    if target == RangeRequest.VALUE:
        descending = "abc"  # b and c have the same value, and equal ones stay in order of their keys
    assert keys(get(replica, sort_target=target, sort_order=RangeRequest.DESCEND)) == descending


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"min_mod_revision": 6}, "ac"),
        ({"max_mod_revision": 6}, "bc"),
        ({"min_create_revision": 3}, "bc"),
        ({"max_create_revision": 3}, "ab"),
        ({"min_create_revision": 3, "max_mod_revision": 3}, "b"),
        ({"max_mod_revision": -1}, ""),
        ({"min_mod_revision": -1}, "abc"),
    ],
)
def test_filters_bound_the_keys_and_not_the_count(
    replica: Replica, fields: dict[str, int], expected: str
) -> None:
    response = get(replica, **fields)
    assert (keys(response), response.count, response.more) == (expected, 3, False)


@pytest.mark.parametrize(
    ("fields", "expected", "more"),
    [
        ({"limit": 2}, "ab", True),
        ({"limit": 3}, "abc", False),
        ({"limit": -2}, "abc", False),
        ({"limit": 1, "sort_order": RangeRequest.DESCEND}, "c", True),
        ({"limit": 1, "min_mod_revision": 6}, "a", True),
        ({"limit": 2, "min_mod_revision": 6}, "ac", False),
        # Without an order etcd takes the first limit + 1 in order of the keys, and sorts those.
        ({"limit": 1, "sort_target": RangeRequest.MOD}, "b", True),
        ({"limit": 1, "sort_target": RangeRequest.VALUE, "revision": 7}, "b", True),
        (
            {"limit": 1, "sort_target": RangeRequest.VALUE, "sort_order": RangeRequest.ASCEND, "revision": 7},
            "d",
            True,
        ),
    ],
)
def test_a_limit_cuts_after_filters_and_sort(
    replica: Replica, fields: dict[str, int], expected: str, more: bool
) -> None:
    response = get(replica, **fields)
    assert (keys(response), response.more) == (expected, more)
    assert response.count == (4 if "revision" in fields else 3)


def test_keys_only_leaves_all_but_the_value(replica: Replica) -> None:
    response = get(replica, keys_only=True, sort_target=RangeRequest.VALUE, sort_order=RangeRequest.DESCEND)
    assert keys(response) == "abc", "sorted by the values that are then left out"
    assert [(kv.value, kv.version, kv.mod_revision) for kv in response.kvs] == [
        (b"", 2, 7),
        (b"", 1, 3),
        (b"", 2, 6),
    ]


@pytest.mark.parametrize("fields", [{}, {"limit": 1}, {"min_mod_revision": 6}, {"revision": 4}])
def test_count_only_has_no_keys(replica: Replica, fields: dict[str, int]) -> None:
    response = get(replica, count_only=True, **fields)
    assert (len(response.kvs), response.count, response.more) == (0, 3, False)


def test_a_snapshot_does_not_move(replica: Replica) -> None:
    """A read at a revision is the same for ever, whatever is written later."""
    store = Replica()
    for entry in replica.log:
        store.apply_entry(entry)
    before = get(store, revision=6)
    store.call(DeleteRangeRequest(key=b"\x00", range_end=b"\x00"))
    after = get(store, revision=6)
    assert list(after.kvs) == list(before.kvs)
    assert after.header.revision == before.header.revision + 1

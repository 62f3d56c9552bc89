"""Which watched ranges hold a key: against looking at each of them."""

from hypothesis import given
from hypothesis import strategies as st

from raftd.watch.ranges import Group, KeyRange, RangeIndex, key_range

KEYS = st.binary(max_size=3).filter(bool)
RANGES = st.tuples(KEYS, st.one_of(st.none(), st.just(b"\x00"), KEYS)).map(
    lambda pair: key_range(pair[0], pair[1] or b"")
)


def holds(range_: KeyRange, key: bytes) -> bool:
    start, end = range_
    return start <= key and (end is None or key < end)


def test_etcds_ways_to_name_a_range() -> None:
    assert key_range(b"k", b"") == (b"k", b"k\x00")
    assert key_range(b"", b"\x00") == (b"\x00", None)
    assert key_range(b"a", b"\x00") == (b"a", None)
    assert key_range(b"a", b"b") == (b"a", b"b")


@given(st.lists(st.tuples(RANGES, st.booleans()), max_size=300), st.lists(KEYS, min_size=1, max_size=20))
def test_it_finds_what_a_look_at_each_finds(changes: list[tuple[KeyRange, bool]], keys: list[bytes]) -> None:
    index: RangeIndex[int] = RangeIndex()
    members: dict[int, tuple[KeyRange, Group[int]]] = {}
    for number, (range_, removes) in enumerate(changes):
        if removes and members:
            member = min(members)
            index.remove(members.pop(member)[1], member)
        else:
            members[number] = (range_, index.add(range_, number))
        key = keys[number % len(keys)]
        found = sorted(member for group in index.matching(key) for member in group.members)
        assert found == [member for member, (range_, _) in sorted(members.items()) if holds(range_, key)]


def test_members_of_one_range_share_a_group() -> None:
    index: RangeIndex[int] = RangeIndex()
    assert index.add((b"a", b"b"), 1) is index.add((b"a", b"b"), 2)
    assert len(index.groups()) == 1


def test_ten_thousand_ranges_are_not_looked_at_one_by_one() -> None:
    index: RangeIndex[int] = RangeIndex()
    for number in range(10_000):
        start = b"%08d" % number
        index.add((start, start + b"\xff"), number)
    looked_at = 0

    class Counting(bytes):
        def __ge__(self, other: bytes) -> bool:
            nonlocal looked_at
            looked_at += 1
            return bytes.__ge__(self, other)

    next(index.matching(b"00000000/x"))  # builds the tree
    found = [member for group in index.matching(Counting(b"00004711/x")) for member in group.members]
    assert found == [4711]
    assert looked_at < 100

"""Opening, identity, bootstrap, recovery, reading back the log."""

import threading
from pathlib import Path
from zlib import crc32

import lmdb
import msgpack
import pytest

from raftd.core.messages import Entry, EntryKind, HardState
from raftd.store import Member, Store, StoreRefused, form_cluster, verify
from raftd.store.membership import encode_membership
from raftd.store.records import log_key
from tests.store.directories import TOKEN, entry, open_member, open_store, write, writing


def test_a_directory_gets_a_random_id_once(tmp_path: Path) -> None:
    """Hazard 43: a wiped directory is a stranger."""
    with open_store(tmp_path / "a") as store:
        first = store.identity
        assert 0 < first.member_id < 1 << 64
        assert (first.name, first.token, first.cluster_id) == (None, None, None)
    with open_store(tmp_path / "a") as store:
        assert store.identity == first
    with open_store(tmp_path / "b") as store:
        assert store.identity.member_id != first.member_id


def test_a_directory_belongs_to_one_member(tmp_path: Path) -> None:
    with open_store(tmp_path / "data") as store:
        store.claim("n1", TOKEN)
        claimed = store.identity
    with open_store(tmp_path / "data") as store:
        assert store.identity == claimed
        store.claim("n1", TOKEN)
        with pytest.raises(StoreRefused, match=r"data directory .* belongs to node 'n1', not to 'n2'"):
            store.claim("n2", TOKEN)
        with pytest.raises(StoreRefused, match="--initial-cluster-token 'token', not 'other'"):
            store.claim("n1", "other")


def test_a_directory_belongs_to_one_cluster(tmp_path: Path) -> None:
    with open_store(tmp_path / "data") as store:
        store.require_cluster(5)
    with open_member(tmp_path / "data") as store:
        cluster_id = store.identity.cluster_id
        assert cluster_id is not None
        store.require_cluster(cluster_id)
        with pytest.raises(StoreRefused, match=f"belongs to cluster {cluster_id:x}, not to 5"):
            store.require_cluster(5)
        stranger = form_cluster("other", [Member(store.identity.member_id, "n1", (), ())])
        with pytest.raises(StoreRefused, match=f"not to {stranger.cluster_id:x}"):
            store.bootstrap(stranger)


def test_bootstrap_writes_the_same_entry_on_each_member(tmp_path: Path) -> None:
    with open_store(tmp_path / "a") as a, open_store(tmp_path / "b") as b:
        members = [
            Member(a.identity.member_id, "n1", ("http://127.0.0.1:1",), ()),
            Member(b.identity.member_id, "n2", ("http://127.0.0.1:2",), ()),
        ]
        cluster = form_cluster(TOKEN, members)
        records = []
        for store in (a, b):
            store.bootstrap(cluster)
            store.bootstrap(cluster)
            with store.read() as reader:
                records.append(reader.get_record("log", log_key(1)))
        assert records[0] == records[1]
    with open_store(tmp_path / "b") as store:
        assert store.identity.cluster_id == cluster.cluster_id
        recovered = store.recover()
        assert recovered.members == cluster.members
        assert recovered.hard_state == HardState(1, None)
        assert (recovered.base_index, recovered.base_term, recovered.applied_index) == (1, 1, 1)
        assert recovered.entries == []
        membership = Entry(1, 1, EntryKind.MEMBERSHIP, encode_membership(cluster))
        assert store.load_entries(1, 0) == (0, [membership])


def test_recovery_finds_what_was_durable(tmp_path: Path) -> None:
    """Hazards 2, 29, 30: term and vote, the log without gaps, the applied index with its data."""
    with open_member(tmp_path / "data") as store:
        write(store, entry(2, b"a=1"), entry(3, b"a=2", term=2))
        with writing(store) as writer:
            entries = [entry(4, b"a=3", term=4), entry(5, term=4)]
            writer.submit(hard_state=HardState(4, 77), entries=entries)
    with open_member(tmp_path / "data") as store:
        recovered = store.recover()
        assert recovered.hard_state == HardState(4, 77)
        assert (recovered.base_index, recovered.base_term, recovered.applied_index) == (3, 2, 3)
        assert recovered.entries == entries
        with store.read() as reader:
            assert reader.get("keys", b"a") == b"2"
            assert reader.applied_index == 3


def test_appending_goes_on_after_a_restart(tmp_path: Path) -> None:
    """The chain of checksums continues, also over a truncation."""
    directory = tmp_path / "data"
    for payload in (b"a=1", b"a=2", b"a=3"):
        with open_member(directory) as store:
            write(store, entry(2, payload), entry(3, payload), entry(4, payload), applied=False)
    with open_member(directory) as store:
        assert store.recover().entries == [entry(index, b"a=3") for index in (2, 3, 4)]
        verification = verify(store)
    assert verification.problems == ()
    assert verification.log_entries == 4


def test_a_voter_without_a_vote_differs_from_any_vote(tmp_path: Path) -> None:
    with open_member(tmp_path / "data") as store, writing(store) as writer:
        writer.submit(hard_state=HardState(9, (1 << 64) - 1))
        writer.submit(hard_state=HardState(10, None))
    with open_member(tmp_path / "data") as store:
        assert store.recover().hard_state == HardState(10, None)


def test_load_entries_is_bounded_but_brings_at_least_one(tmp_path: Path) -> None:
    with open_member(tmp_path / "data") as store:
        entries = [entry(index, b"x" * 968, term=index) for index in range(2, 8)]
        write(store, *entries, applied=False)
        assert store.load_entries(2, 1) == (1, entries[:1])
        assert store.load_entries(2, 1000) == (1, entries[:1])
        assert store.load_entries(2, 2000) == (1, entries[:2])
        assert store.load_entries(4, 2999) == (3, entries[2:4])
        assert store.load_entries(7, 1 << 20) == (6, entries[5:])
        assert store.load_entries(8, 1 << 20) == (7, [])


def test_readers_of_other_threads_see_the_last_commit(tmp_path: Path) -> None:
    """Many at once, while the writer has its transaction open."""
    seen: list[bytes | None] = []

    def look() -> None:
        with store.read() as reader:
            barrier.wait(30)
            seen.append(reader.get("keys", b"a"))

    with open_member(tmp_path / "data") as store:
        write(store, entry(2, b"a=1"), entry(3, b"a=2"), applied=False)
        with writing(store) as writer:
            writer.submit(committed=[entry(2, b"a=1")], commit_now=True)
            writer.next_reports()
            writer.next_reports()
            writer.submit(committed=[entry(3, b"a=2")])
            writer.next_reports()
            barrier = threading.Barrier(8)
            threads = [threading.Thread(target=look) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert seen == [b"1"] * 8


def test_a_table_that_is_new_in_this_program_is_empty(tmp_path: Path) -> None:
    with open_member(tmp_path / "data") as store:
        write(store, entry(2, b"a=1"))
    with Store.open(tmp_path / "data", tables=("keys", "results", "leases"), runtime=tmp_path) as store:
        assert verify(store).keys == {"keys": 1, "results": 0, "leases": 0}


def test_a_table_that_this_program_does_not_know_is_refused(tmp_path: Path) -> None:
    with open_member(tmp_path / "data"):
        pass
    with pytest.raises(StoreRefused, match="has a table 'results', which this program does not know"):
        Store.open(tmp_path / "data", tables=("keys",), runtime=tmp_path)


def test_a_newer_format_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Each record carries its format; a program never rewrites what it does not know."""
    directory = tmp_path / "data"
    with open_member(directory):
        pass
    newer = [2, "whatever", {"a": 1}]
    record = msgpack.packb([*newer, crc32(msgpack.packb(newer), crc32(b"identity"))])
    with lmdb.open(str(directory), max_dbs=8, lib_version=0) as raw:
        with raw.begin(write=True, db=raw.open_db(b"meta")) as transaction:
            transaction.put(b"identity", record)
    with pytest.raises(StoreRefused, match="format version 2, this program reads version 1"):
        open_store(directory)
    with lmdb.open(str(directory), max_dbs=8, lib_version=0) as raw:
        with raw.begin(db=raw.open_db(b"meta", create=False)) as reader:
            assert reader.get(b"identity") == record

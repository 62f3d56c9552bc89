"""The scrub: read everything in a data directory and compare it with its checksums, chain and tallies.

It holds one read transaction from beginning to end, so it is for a member that is stopped or quiet (hazard
66). It names what is wrong and changes nothing: what to do with a damaged member is decided by who has the
other copies.
"""

from dataclasses import dataclass

from raftd.store.environment import LOG, META
from raftd.store.errors import CorruptRecord, StoreRefused
from raftd.store.limits import MAX_PROBLEMS
from raftd.store.log import POSITION_KEY, LogPosition, read_position
from raftd.store.membership import ClusterIdentity, encode_membership
from raftd.store.records import decode_entry, log_index, stored_crc
from raftd.store.state import (
    CLUSTER_KEY,
    HARD_STATE_KEY,
    IDENTITY_KEY,
    STATE_KEY,
    read_cluster,
    read_hard_state,
    read_identity,
    read_state,
)
from raftd.store.store import BOOTSTRAP_INDEX, Store
from raftd.store.tally import HASH_MODULUS, Tally, stored_hash
from raftd.store.transaction import ReadTransaction, opened


@dataclass(frozen=True, slots=True)
class Verification:
    """What was read, and the first `MAX_PROBLEMS` problems. Without problems the directory is as it was
    written."""

    log_entries: int
    keys: dict[str, int]
    problems: tuple[StoreRefused, ...]


def verify(store: Store) -> Verification:
    """Scrub an open store. Never raises `CorruptRecord`: every problem is in the result."""
    scrub = _Scrub()
    with store.read() as reader:
        scrub.check_meta(reader, store.environment.tables)
        keys = {table: scrub.check_table(reader, table) for table in store.environment.tables}
        log_entries = scrub.check_log(reader)
    return Verification(log_entries, keys, tuple(scrub.problems))


class _Scrub:
    def __init__(self) -> None:
        self.problems: list[StoreRefused] = []
        self._position: LogPosition | None = None
        self._cluster: ClusterIdentity | None = None
        self._tallies: dict[str, Tally] = {}

    def check_meta(self, reader: ReadTransaction, tables: tuple[str, ...]) -> None:
        try:
            read_identity(reader.get_record(META, IDENTITY_KEY))
            self._position = read_position(reader.get_record(META, POSITION_KEY))
            state = read_state(reader.get_record(META, STATE_KEY), tables)
            self._tallies = state.tallies
            if not self._position.base_index <= state.applied_index <= self._position.last_index:
                what = f"applied index {state.applied_index} lies outside the log, {self._position}"
                self._add(CorruptRecord(META, STATE_KEY.decode(), what))
            if self._position.last_index > 0:
                read_hard_state(reader.get_record(META, HARD_STATE_KEY))
                self._cluster = read_cluster(reader.get_record(META, CLUSTER_KEY))
        except StoreRefused as problem:
            self._add(problem)

    def check_table(self, reader: ReadTransaction, table: str) -> int:
        """Count a table's keys and compare count and hash with the tally."""
        found = Tally()
        for key, record in reader.scan_records(table, b""):
            found.keys += 1
            found.hash += stored_hash(record)
            try:
                opened(table, key, record)
            except CorruptRecord as problem:
                self._add(problem)
        expected = self._tallies.get(table)
        if expected is not None and found.keys != expected.keys:
            what = f"{found.keys} keys instead of {expected.keys}"
            self._add(CorruptRecord(table, "", what))
        elif expected is not None and (found.hash - expected.hash) % HASH_MODULUS:
            self._add(CorruptRecord(table, "", "the hash over all records does not match"))
        return found.keys

    def check_log(self, reader: ReadTransaction) -> int:
        """Follow the chain; after a damaged record it goes on from the CRC that the record carries."""
        position = self._position
        if position is None:
            return 0
        count = 0
        expected, crc = position.base_index + 1, position.base_crc
        for key, record in reader.scan_records(LOG, b""):
            count += 1
            try:
                index = log_index(key)
                if index != expected:
                    self._add(CorruptRecord(LOG, expected, f"it is missing, the next is {index}"))
                    crc = stored_crc(index, record)
                else:
                    self._check_entry(index, crc, record)
                    crc = stored_crc(index, record)
                expected = index + 1
            except StoreRefused as problem:
                self._add(problem)
                expected += 1
        if expected != position.last_index + 1:
            what = f"the log should end at {position.last_index}, but ends at {expected - 1}"
            self._add(CorruptRecord(LOG, min(expected, position.last_index + 1), what))
        elif crc != position.last_crc:
            what = "it is not the record that was last written"
            self._add(CorruptRecord(LOG, position.last_index, what))
        return count

    def _check_entry(self, index: int, predecessor_crc: int, record: bytes) -> None:
        try:
            entry, _ = decode_entry(index, predecessor_crc, record)
        except StoreRefused as problem:
            self._add(problem)
            return
        cluster = self._cluster if index == BOOTSTRAP_INDEX else None
        if cluster is not None and entry.payload != encode_membership(cluster):
            self._add(CorruptRecord(LOG, index, "it is not the membership that the directory belongs to"))

    def _add(self, problem: StoreRefused) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(problem)

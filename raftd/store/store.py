"""The data directory of one member: who it is, its term and vote, its log, its state machine's tables.

Everything lies in one LMDB environment, so that one commit makes log, vote, applied index and data durable
together or not at all (hazards 1, 30). After `bootstrap` only `raftd.store.writer` writes. Called by the
node; everything here blocks, so it belongs into a worker thread. Knows nothing of Raft's rules or of what
the tables mean.
"""

import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import lmdb

from raftd.core.messages import Entry, EntryKind, HardState
from raftd.store.directory import (
    DATABASE_FILE,
    DirectoryLock,
    prepare_directory,
    refused_on_error,
    sync_directory,
)
from raftd.store.environment import LOG, META, Environment
from raftd.store.errors import CorruptRecord, Fenced, StoreRefused
from raftd.store.extent import Extent
from raftd.store.fence import FenceMark, runtime_directory
from raftd.store.limits import LITTLE_SPACE_BYTES, MAP_SIZE_BYTES
from raftd.store.log import (
    POSITION_KEY,
    LogPosition,
    append_entries,
    load_entries,
    read_entries,
    read_position,
)
from raftd.store.membership import ClusterIdentity, Member, encode_membership
from raftd.store.state import (
    CLUSTER_KEY,
    HARD_STATE_KEY,
    IDENTITY_KEY,
    STATE_KEY,
    Identity,
    empty_state,
    read_cluster,
    read_hard_state,
    read_identity,
    read_state,
    sealed_cluster,
    sealed_hard_state,
    sealed_identity,
)
from raftd.store.transaction import ReadTransaction, WriteTransaction

BOOTSTRAP_INDEX = 1
BOOTSTRAP_TERM = 1


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a start finds. `entries` are those after `base_index`, which is the applied index: whether they
    are committed only a leader of the current term can tell (hazard 39)."""

    hard_state: HardState
    base_index: int
    base_term: int
    entries: list[Entry]
    applied_index: int
    cluster: ClusterIdentity

    @property
    def members(self) -> tuple[Member, ...]:
        return self.cluster.members


class Store:
    """An open data directory. Made by `Store.open`; a context manager that closes it.

    `position` and `state` are what the open write transaction will have made durable; they belong to the
    thread that writes: the opening one until a `Writer` exists, then the writer's.
    """

    def __init__(
        self,
        directory: Path,
        lock: DirectoryLock,
        mark: FenceMark,
        extent: Extent,
        environment: Environment,
    ) -> None:
        self.directory = directory
        self.environment = environment
        self.identity = Identity(0)
        self.position = LogPosition()
        self.state = empty_state(environment.tables)
        self._lock = lock
        self._mark = mark
        self._extent = extent
        self._fence_lock = threading.Lock()
        self._fenced: Fenced | None = None

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        tables: Sequence[str],
        map_size: int = MAP_SIZE_BYTES,
        runtime: Path | None = None,
    ) -> Self:
        """Open the directory, creating it with a fresh identity when it is empty.

        `tables` are those of the state machine; `runtime` is where a fence mark goes that the directory
        does not take. Raises `StoreRefused` (with it `CorruptRecord`) or `Fenced`, each with one line of
        text.
        """
        directory = Path(directory).absolute()
        prepare_directory(directory)
        with ExitStack() as opened:
            lock = DirectoryLock(directory)
            opened.callback(lock.release)
            mark = FenceMark(directory, runtime or runtime_directory())
            with refused_on_error(directory):
                mark.check()
            extent = Extent(directory)
            opened.callback(extent.close)
            environment = Environment(directory, tables, map_size)
            opened.callback(environment.close)
            store = cls(directory, lock, mark, extent, environment)
            store._load()
            opened.pop_all()
        return store

    def close(self) -> None:
        """Close database and lock. The writer must have ended and no read transaction be open."""
        self.environment.close()
        self._extent.close()
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def claim(self, name: str, token: str) -> None:
        """Take a fresh directory for the member `name` of a cluster formed under `token`, or check that it
        is that member's. Raises `StoreRefused`."""
        if self.identity.name is None:
            claimed = replace(self.identity, name=name, token=token)
            with self.storage_errors(), self.environment.lmdb.begin(write=True) as transaction:
                self._put_meta(transaction, IDENTITY_KEY, sealed_identity(claimed))
            self.identity = claimed
        if self.identity.name != name:
            raise StoreRefused(
                f"data directory {self.directory} belongs to node {self.identity.name!r}, not to {name!r}"
            )
        if self.identity.token != token:
            raise StoreRefused(
                f"data directory {self.directory} belongs to a cluster formed with --initial-cluster-token "
                f"{self.identity.token!r}, not {token!r}"
            )

    def require_cluster(self, cluster_id: int) -> None:
        """Raise `StoreRefused` when the directory belongs to another cluster; a fresh one belongs to none
        yet."""
        if self.identity.cluster_id not in (None, cluster_id):
            raise StoreRefused(
                f"data directory {self.directory} belongs to cluster {self.identity.cluster_id:x}, "
                f"not to {cluster_id:x}"
            )

    def bootstrap(self, cluster: ClusterIdentity) -> None:
        """Make this directory a member of a new cluster, in one commit: the membership entry at index 1 in
        term 1, byte for byte the same on each member, applied; no vote. Doing it again for the same cluster
        does nothing.
        """
        self.require_cluster(cluster.cluster_id)
        if self.identity.cluster_id is not None:
            return
        assert self.identity.member_id in [member.id for member in cluster.members], cluster
        entry = Entry(BOOTSTRAP_INDEX, BOOTSTRAP_TERM, EntryKind.MEMBERSHIP, encode_membership(cluster))
        with self.storage_errors(), self.environment.lmdb.begin(write=True) as transaction:
            append_entries(transaction, self.environment.handles[LOG], self.position, [entry])
            self.state.applied_index = entry.index
            self._put_meta(transaction, CLUSTER_KEY, sealed_cluster(cluster))
            self._put_meta(transaction, HARD_STATE_KEY, sealed_hard_state(HardState(BOOTSTRAP_TERM, None)))
            self._put_meta(transaction, POSITION_KEY, self.position.sealed())
            self._put_meta(transaction, STATE_KEY, self.state.sealed())
        self.identity = replace(self.identity, cluster_id=cluster.cluster_id)

    def recover(self) -> Recovered:
        """Term, vote and the log after the applied index, each record checked; raises `CorruptRecord`."""
        assert self.identity.cluster_id is not None, "the directory is not part of a cluster yet"
        applied_index = self.state.applied_index
        with self.read() as reader:
            base_term, entries = self.position.base_term, []
            first = max(applied_index, self.position.base_index + 1)
            for entry, _ in read_entries(reader, self.position, first):
                if entry.index == applied_index:
                    base_term = entry.term
                else:
                    entries.append(entry)
            self._check_counts(reader)
            return Recovered(
                hard_state=read_hard_state(reader.get_record(META, HARD_STATE_KEY)),
                base_index=applied_index,
                base_term=base_term,
                entries=entries,
                applied_index=applied_index,
                cluster=read_cluster(reader.get_record(META, CLUSTER_KEY)),
            )

    def _check_counts(self, reader: ReadTransaction) -> None:
        """A missing record has no checksum that could tell; LMDB counts for free (hazard 75)."""
        expected = {table: tally.keys for table, tally in self.state.tallies.items()}
        expected[LOG] = self.position.last_index - self.position.base_index
        for table, count in expected.items():
            found = reader.lmdb.stat(self.environment.handles[table])["entries"]
            if found != count:
                raise CorruptRecord(table, "", f"{found} records instead of {count}")

    @contextmanager
    def read(self) -> Iterator[ReadTransaction]:
        """A read transaction on what the last commit left, for any thread; hold it briefly (hazard 66)."""
        try:
            with ReadTransaction(self.environment) as transaction:
                yield transaction
        except lmdb.Error as error:
            raise self._verdict(error) from error

    def load_entries(self, first_index: int, max_bytes: int) -> tuple[int, list[Entry]]:
        """The term before `first_index` and durable entries from there on: at least one if there is one,
        then up to `max_bytes`. Checked; raises `CorruptRecord`."""
        with self.read() as reader:
            position = read_position(reader.get_record(META, POSITION_KEY))
            return load_entries(reader, position, first_index, max_bytes)

    def size_bytes(self) -> int:
        """How much of the file the database has ever used; it does not shrink."""
        return (self.environment.lmdb.info()["last_pgno"] + 1) * self.environment.lmdb.stat()["psize"]

    def begin_write(self) -> WriteTransaction:
        """The write transaction; its thread must be the one that commits it (hazard 68)."""
        return WriteTransaction(self.environment, self.state.tallies)

    def append(self, transaction: WriteTransaction, entries: Sequence[Entry]) -> None:
        """Replace the log from `entries[0].index` on. What is applied is committed and never replaced
        (§5.3)."""
        first = entries[0].index
        assert first > self.state.applied_index, (first, self.state.applied_index)
        append_entries(transaction.lmdb, self.environment.handles[LOG], self.position, entries)

    def set_hard_state(self, transaction: WriteTransaction, hard_state: HardState) -> None:
        self._put_meta(transaction.lmdb, HARD_STATE_KEY, sealed_hard_state(hard_state))

    def commit(self, transaction: WriteTransaction) -> None:
        """Make everything since `begin_write` durable, with the position and the applied state that
        describe it."""
        assert self.state.applied_index <= self.position.last_index, (self.state, self.position)
        self._put_meta(transaction.lmdb, POSITION_KEY, self.position.sealed())
        self._put_meta(transaction.lmdb, STATE_KEY, self.state.sealed())
        transaction.commit()
        self._extent.note()

    @contextmanager
    def storage_errors(self) -> Iterator[None]:
        """Let the first storage error end this member's use of its disk: raises what `_verdict` says."""
        try:
            yield
        except (lmdb.Error, OSError) as error:
            raise self._verdict(error) from error

    def _verdict(self, error: lmdb.Error | OSError) -> Exception:
        """`Fenced` after leaving the mark; `StoreRefused` for damaged pages, which a reboot does not mend; a
        programmer's mistake as it is."""
        if isinstance(error, (lmdb.BadValsizeError, lmdb.ReadersFullError)):
            return error
        if isinstance(error, _DAMAGE):
            return StoreRefused(f"{self.directory / DATABASE_FILE} is damaged: {error}")
        with self._fence_lock:
            if self._fenced is None:
                reason = f"{type(error).__name__}: {error}{_lack_of_space(self.directory)}"
                place = self._mark.write(reason)
                remark = f"marked by {place}" if place else "no mark could be written: do not start it again"
                self._fenced = Fenced(
                    f"data directory {self.directory} is fenced by a storage error ({reason}); "
                    f"check the disk and reboot this machine, or go on without this member ({remark})"
                )
            return self._fenced

    def _load(self) -> None:
        environment = self.environment
        with self.storage_errors(), environment.lmdb.begin(write=True) as transaction:
            environment.open_tables(transaction)
            meta = environment.handles[META]
            if transaction.stat(meta)["entries"]:
                self.identity = read_identity(transaction.get(IDENTITY_KEY, db=meta))
                sealed = transaction.get(CLUSTER_KEY, db=meta)
                if sealed is not None:
                    self.identity = replace(self.identity, cluster_id=read_cluster(sealed).cluster_id)
                self.position = read_position(transaction.get(POSITION_KEY, db=meta))
                self.state = read_state(transaction.get(STATE_KEY, db=meta), environment.tables)
                return
            for table, handle in environment.handles.items():
                if transaction.stat(handle)["entries"]:
                    raise CorruptRecord(META, "", f"it is empty, but table {table} is not")
            self.identity = Identity(secrets.randbelow((1 << 64) - 1) + 1)
            self._put_meta(transaction, IDENTITY_KEY, sealed_identity(self.identity))
            self._put_meta(transaction, POSITION_KEY, self.position.sealed())
            self._put_meta(transaction, STATE_KEY, self.state.sealed())
        with self.storage_errors():
            sync_directory(self.directory)
            self._extent.note()

    def _put_meta(self, transaction: "lmdb.Transaction[bytes]", key: bytes, sealed: bytes) -> None:
        transaction.put(key, sealed, db=self.environment.handles[META])


_DAMAGE = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError, lmdb.VersionMismatchError)


def _lack_of_space(directory: Path) -> str:
    """A remark for the operator: LMDB reports a write that a full disk has cut short as EIO."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return ""  # a disk that is dead rather than full; the error that led here is reported
    free_bytes = found.f_bavail * found.f_frsize
    return f", {free_bytes} bytes free on its file system" if free_bytes < LITTLE_SPACE_BYTES else ""

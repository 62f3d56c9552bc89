"""The LMDB environment: its options and its tables. The only module that opens a database.

Full durability is not an option that can be turned off: `sync` and `metasync` on, `writemap` off, or the
last commit, and a vote with it, could vanish at a power loss (hazard 59). `lib_version` pins the 0.9 file
format, which the environment variable LMDB_DEFAULT_LIB_VERSION could otherwise flip (hazard 80). Called by
`Store`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lmdb

from raftd.store.directory import DATABASE_FILE
from raftd.store.errors import StoreRefused
from raftd.store.limits import MAX_READERS, MAX_SPARE_READ_TRANSACTIONS, MAX_TABLES

if TYPE_CHECKING:
    from lmdb import _Database

META = "meta"
LOG = "log"

_LIB_VERSION_0_9 = 0


class Environment:
    """An open database with a handle for each of its tables. `tables` are those of the state machine."""

    def __init__(self, directory: Path, tables: Sequence[str], map_size: int) -> None:
        """Open or create. Raises `StoreRefused` when LMDB cannot, and for what another program has
        written."""
        assert len(set(tables) | {META, LOG}) == len(tables) + 2 <= MAX_TABLES, tables
        self.directory = directory
        self.tables = tuple(tables)
        try:
            self.lmdb = lmdb.open(
                str(directory),
                map_size=map_size,
                subdir=True,
                sync=True,
                metasync=True,
                writemap=False,
                map_async=False,
                mode=0o600,
                max_readers=MAX_READERS,
                max_spare_txns=MAX_SPARE_READ_TRANSACTIONS,
                max_dbs=MAX_TABLES,
                lib_version=_LIB_VERSION_0_9,
            )
        except lmdb.Error as error:
            raise StoreRefused(f"cannot open {directory / DATABASE_FILE}: {error}") from error
        flags = self.lmdb.flags()
        assert flags["sync"], flags
        assert flags["metasync"], flags
        assert not flags["writemap"], flags
        self.handles: Mapping[str, _Database] = {}

    def open_tables(self, transaction: "lmdb.Transaction[bytes]") -> None:
        """Open all tables, creating those that are missing; they last if this write transaction is
        committed."""
        if transaction.stat()["entries"] and transaction.get(META.encode()) is None:
            raise StoreRefused(f"{self.directory / DATABASE_FILE} is a database of another program")
        self.handles = {
            table: self.lmdb.open_db(table.encode(), txn=transaction) for table in (META, LOG, *self.tables)
        }

    def close(self) -> None:
        self.lmdb.close()

"""Every bound of the store, in one place."""

MAP_SIZE_BYTES = 1 << 40
"""Address space for the database, reserved once and never changed (hazard 65). It costs neither memory nor
disk; it lies far above any quota, so that the quota is met first."""

MAX_READERS = 1024
"""Read transactions at one time; LMDB's default of 126 is fewer than a busy node has worker threads (hazard
66)."""

MAX_SPARE_READ_TRANSACTIONS = 64
"""Ended read transactions that are kept for the next reader, which makes beginning one cheap."""

MAX_TABLES = 32

MAX_QUEUED_JOBS = 65_536
"""The node bounds what it has outstanding far below this; reaching it is a programmer's mistake."""

MAX_JOBS_PER_COMMIT = 1024
"""What one group commit collects before it syncs, however much more is waiting."""

APPLY_COMMIT_DELAY_MS = 5
"""How long applied entries may wait for a commit that log or vote would have caused anyway. It
bounds what a restart applies again and how long a read waits for an index that only the writer has seen."""

MAX_ENTRIES_PER_LOAD = 4096

ENTRY_OVERHEAD_BYTES = 32
"""What an entry costs beside its payload, for `Store.load_entries`."""

MAX_PROBLEMS = 100
"""How many corrupt records one scrub names before it gives up."""

LITTLE_SPACE_BYTES = 16 << 20
"""With less than this free, a fenced member also says how much is free."""

"""Every bound of the benchmarks, in one place. Times in seconds, sizes in bytes.

The launcher of local clusters has its own, beside what they bound.
"""

from typing import Final

CLIENTS_MAX: Final = 100_000
PROCESSES_MAX: Final = 256
CONNECTIONS_MAX: Final = 10_000
KEY_SPACE_MAX: Final = 100_000_000
VALUE_BYTES_MAX: Final = 1 << 20
SECONDS_MAX: Final = 86_400.0
RATE_MAX: Final = 1_000_000.0

OPERATIONS_MAX: Final = 50_000_000
"""A run that reaches so many in one process ends there and says so: each keeps 25 bytes of exact samples."""

OPERATION_TIMEOUT_S: Final = 5.0
"""One operation, unless `--timeout` says otherwise."""

ERROR_PAUSE_S: Final = 0.01
"""A client in a closed loop waits so long after a failure: a dead server answers too fast."""

ERROR_TEXTS_MAX: Final = 50
"""How many texts are told apart; what follows is counted as OTHER_ERRORS."""
OTHER_ERRORS: Final = "(other errors)"

PROBE_TIMEOUT_S: Final = 5.0
"""To learn whether anybody serves, before a run."""

START_DELAY_S: Final = 0.1
"""From the order to start until the first operation, so that all processes begin at the same moment."""

READY_TIMEOUT_S: Final = 60.0
"""For all generator processes to start and connect."""

WORKER_GRACE_S: Final = 20.0
"""For a generator process to hand over its samples when its last operation must have ended."""

PROGRESS_INTERVAL_S: Final = 0.5
PLAIN_PROGRESS_INTERVAL_S: Final = 5.0
"""A line on a terminal is redrawn so often, one in a file appended."""

GENERATOR_BUSY_SHARE: Final = 0.85
"""A generator process that used more of one core than this was as fast as Python lets it be: a process of
Python cannot use two, and what it measures above this share is its own queue."""

FILL_BATCH_KEYS: Final = 100
FILL_BATCH_BYTES: Final = 512 << 10
"""One transaction of those that write the keys which `get` and `mixed` then read."""

DISK_WRITES: Final = 200
DISK_SECONDS_MAX: Final = 2.0
"""A measurement of a disk ends with whichever comes first."""
DISK_WRITE_BYTES: Final = 2300
"""What fio is told in etcd's disk advice: about one small log entry with its record."""

FAILOVER_RATE: Final = 200.0
"""Writes per second while a leader is failing: one every 5 ms is how finely an outage is seen."""
FAILOVER_KEYS: Final = 16
"""Over which the writes of one trial go, so that each key has a history worth checking."""
FAILOVER_VALUE_BYTES: Final = 256
FAILOVER_OUTSTANDING_MAX: Final = 2000
"""Writes that wait for an answer; what is due beyond them is counted as unsent."""
FAILOVER_LEAD_S: Final = 0.5
"""Writes at peace before the fault."""
FAILOVER_TRAIL_S: Final = 0.3
"""Writes after the recovery, before the fault is healed."""
FAILOVER_SUCCESSES: Final = 20
"""So many writes, sent after the fault, are done: the cluster serves again."""
FAILOVER_TRIAL_S: Final = 30.0
"""A trial in which the cluster does not serve again by then has failed."""
FAILOVER_STEADY_S: Final = 60.0
"""For all nodes to be there again, and up to date, before the next trial."""
FAILOVER_ENTRIES_BEHIND: Final = 50
"""A node that lags less counts as up to date, while writes go on."""
FAILOVER_POLL_S: Final = 0.02
HISTORY_READERS: Final = 8
TRIALS_MAX: Final = 10_000

CLUSTER_START_S: Final = 60.0
CLUSTER_STOP_S: Final = 10.0
STATUS_TIMEOUT_S: Final = 1.0

COMPARE_KEY_SPACE: Final = 10_000
COMPARE_VALUE_BYTES: Final = 256
COMPARE_CONNECTIONS_MAX: Final = 8
"""Of one generator to an etcd, or to us as a stock client: many for a server, few for Python."""
COMPARE_PAUSE_S: Final = 0.2
"""Between two runs, so that neither pays for what the other left to do."""
COMPARE_IDLE_S: Final = 3.0
"""How long both clusters are watched doing nothing."""
PEER_LOAD_GRACE_S: Final = 60.0
"""Beyond the time it was told, for a load generator that is not ours."""
PEER_LOAD_TOTAL_MIN: Final = 100

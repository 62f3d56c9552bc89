"""The replicated state machine: etcd's key-value model with sessions, over an ordered-map transaction.

`machine` is the way in; `command` says what stands in the log, `check` what a request must be. It knows
neither LMDB nor Raft nor gRPC, and no clock.
"""

from raftd.kv.machine import TABLES, StateMachine

__all__ = ["TABLES", "StateMachine"]

"""raftd, one data node: the program's entry."""

import sys

try:
    from proto import shell
except ImportError as error:
    sys.exit(f"raftd: {error}. If that is proto-plus, give raftd a virtual environment of its own.")

from raftd import server
from raftd.kv.command import NewerFormat
from raftd.options import NodeConfiguration
from raftd.peers.bootstrap import FormationRefused
from raftd.store import Fenced, StoreRefused

ABOUT = "A data node of a replicated, durable key-value store that speaks etcd v3."


def main() -> None:
    """Never returns: exits with the program's status."""
    exit_statuses = {
        StoreRefused: shell.EXIT_STORAGE_REFUSED,
        NewerFormat: shell.EXIT_STORAGE_REFUSED,
        FormationRefused: shell.EXIT_STORAGE_REFUSED,
        Fenced: shell.EXIT_FENCED,
    }
    sys.exit(shell.run(NodeConfiguration, "raftd", ABOUT, server.run, exit_statuses=exit_statuses))

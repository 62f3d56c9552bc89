"""PyPI's aetcd, a client that we did not write, with watch, lease and lock, works against proxy and nodes."""

import sys
from pathlib import Path

import pytest

from tests.processes.cluster import LocalCluster, run

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("etcdctl")]

PROGRAM = Path(__file__).with_name("python_aetcd.py")


@pytest.mark.parametrize("server", ["p1", "n1", "n2", "n3"])
async def test_python_aetcd(cluster: LocalCluster, server: str) -> None:
    # By path, because with -m the checkout, and with it our `proto`, would be on its path.
    ended = await run(sys.executable, str(PROGRAM), cluster.address(server))
    assert (ended.status, ended.stdout) == (0, "done\n"), ended

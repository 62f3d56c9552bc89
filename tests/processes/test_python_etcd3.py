"""PyPI's etcd3, a client that we did not write, works against the proxy and against a node."""

import sys
from pathlib import Path

import pytest

from tests.processes.cluster import LocalCluster, run

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("etcdctl")]

PROGRAM = Path(__file__).with_name("python_etcd3.py")


@pytest.mark.parametrize("server", ["p1", "n1", "n2", "n3"])
async def test_python_etcd3(cluster: LocalCluster, server: str) -> None:
    # Its generated code is from 2018; protobuf's C implementation refuses it. By path, because with -m the
    # checkout would be on its path.
    ended = await run(
        *(sys.executable, str(PROGRAM), cluster.address(server)),
        environ={"PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"},
    )
    assert (ended.status, ended.stdout) == (0, "done\n"), ended

"""Fixtures of the tests with a real etcd."""

import os
import sys
from collections.abc import Iterator

import pytest
import trio

from tests.clientctl.real_etcd import Etcd, start_etcd, until_it_serves


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Etcd, Etcd]]:
    """etcdctl on one etcd, clientctl on another."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("CLIENTCTL_", "ETCD"))
    }
    processes, found = [], []
    try:
        for name in ("etcdctl", "clientctl"):
            process, endpoint = start_etcd(tmp_path_factory.mktemp(name))
            processes.append(process)
            trio.run(until_it_serves, endpoint)
            tool = ["etcdctl"] if name == "etcdctl" else [sys.executable, "-m", "clientctl.main"]
            variables = {"ETCDCTL_API": "3", f"{name.upper()}_ENDPOINTS": endpoint}
            found.append(Etcd(endpoint, tool, {**environment, **variables}))
        yield found[0], found[1]
    finally:
        for process in processes:
            process.kill()
            process.wait()

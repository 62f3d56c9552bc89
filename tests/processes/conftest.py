"""Fixtures of the tests with real processes."""

from collections.abc import Iterator

import pytest

from tests.processes.cluster import LocalCluster, lasting_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """One cluster of three nodes and a proxy for a whole module; its tests leave it running and well."""
    with lasting_cluster(tmp_path_factory.mktemp("cluster")) as running:
        yield running

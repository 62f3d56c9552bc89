"""Our state machine against a real etcd 3.4 on the same random operations: equal replies, equal errors."""

import pytest

from tests.kv.differential import Differential
from tests.kv.etcd import INSTALL_LINE, RealEtcd, available

pytestmark = pytest.mark.skipif(not available(), reason=f"no etcd to compare with: {INSTALL_LINE}")


@pytest.mark.parametrize("seed", [20, 33, 87])
def test_random_operations_get_the_replies_of_etcd(seed: int) -> None:
    """Hazard 33 from the other side: the model that all replicas share is etcd's own."""
    with RealEtcd() as etcd:
        run = Differential(etcd, seed)
        run.run(2_000)
        run.compare_history(10)
    assert run.revision > 600, "hardly anything was written"
    assert run.compacted > 300, "hardly anything was compacted"
    for what in ("LeaseGrantRequest", "CompactionRequest", "HashKVRequest", "WatchCreateRequest"):
        assert run.counts[what] >= 1, run.counts
    assert len(run.errors) >= 7, f"hardly any error was provoked: {run.errors}"

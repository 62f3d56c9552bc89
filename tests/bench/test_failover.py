"""The failover benchmark on a real cluster: two trials, every milestone seen, every write checked."""

import json
import os
import shutil
from pathlib import Path

import pytest

from bench.faults import FAULTS
from bench.timeline import MILESTONES
from tests.bench.test_commands import bench

partition_possible = (
    os.geteuid() == 0 and shutil.which("ip") is not None and shutil.which("bridge") is not None
)


@pytest.mark.processes
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(
            fault,
            marks=[
                pytest.mark.root,
                pytest.mark.skipif(not partition_possible, reason="needs root and iproute2"),
            ]
            if fault == "partition"
            else [],
        )
        for fault in FAULTS
    ],
)
async def test_a_leader_fails_and_no_write_is_lost(fault: str, tmp_path: Path) -> None:
    """Hazards 82 and 87: unknown is not undone, and repeated is not done twice."""
    path = tmp_path / "failover.json"
    status, output, complaint = await bench(
        *("failover", "--fault", fault, "--trials", "2", "--data-dir", str(tmp_path)),
        *("--timeout", "30", "--json", str(path)),
    )
    assert status == 0, complaint
    document = json.loads(path.read_text())
    assert document["kind"] == "failover"
    assert document["problems"] == []
    assert document["errors"] == {}
    assert document["acknowledged"] > 0
    for trial in document["trials"]:
        moments = [trial[f"{name}_ms"] for name in ("detected", "elected", "table_updated")]
        assert None not in [trial[f"{name}_ms"] for name in MILESTONES]
        assert moments == sorted(moments)
        assert trial["elected_ms"] <= trial["first_commit_ms"]
        assert trial["elected_ms"] <= trial["first_success_ms"]
        assert trial["table_lag_ms"] > 0
    assert "no acknowledged write lost, none applied twice" in output
    # The cluster has gone, and its directory with it.
    assert list(tmp_path.iterdir()) == [path]

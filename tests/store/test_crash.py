"""SIGKILL in the middle of a commit: what was reported durable is there, and nothing is half there.

A kill leaves the page cache, so it proves the order of writes and not of syncs (hazard 79); power loss is a
matter for block-level tests (hazards 74, 76).
"""

import signal
import subprocess
from pathlib import Path

import pytest

from raftd.store import verify
from tests.store.directories import ROOT, child_command, entry, open_member, write
from tests.store.injection import SYSTEM_CALLS, needs_strace, run_injected


def check_recovery(directory: Path, durable: int) -> None:
    """Everything up to `durable` is there, at most one job more, and the directory can be written to."""
    with open_member(directory) as store:
        recovered = store.recover()
        assert durable <= recovered.applied_index <= durable + 1
        assert recovered.hard_state.term == recovered.base_term == max(1, recovered.applied_index)
        assert recovered.entries == []
        verification = verify(store)
        assert verification.problems == ()
        assert verification.log_entries == recovered.applied_index
        assert verification.keys["keys"] == recovered.applied_index - 1
        write(store, entry(recovered.applied_index + 1, b"more=x"))
        assert verify(store).problems == ()


def test_killed_before_the_commit(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with open_member(directory):
        pass
    killed = subprocess.run(child_command(directory, "die"), cwd=ROOT, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    with open_member(directory) as store:
        assert store.recover().entries == []
        with store.read() as reader:
            assert reader.get("keys", b"half") is None
    check_recovery(directory, 1)


@needs_strace
@pytest.mark.parametrize("nth", [1, 2, 5])
@pytest.mark.parametrize("system_call", SYSTEM_CALLS)
def test_killed_in_the_commit(tmp_path: Path, system_call: str, nth: int) -> None:
    """Hazards 1, 4, 30: log, vote, data and applied index go together."""
    directory = tmp_path / "data"
    with open_member(directory):
        pass
    killed = run_injected(directory, system_call, "signal=KILL", nth, "write", "20")
    assert killed.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), killed
    lines = killed.stdout.splitlines()
    assert lines[0] == "open"
    durable = [int(line.removeprefix("durable ")) for line in lines[1:]]
    assert durable == list(range(2, len(durable) + 2))
    check_recovery(directory, len(durable) + 1)

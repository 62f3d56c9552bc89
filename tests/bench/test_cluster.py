"""The launcher's words for processes that do not start, and for those that do not stop."""

import sys
from pathlib import Path

import pytest

from bench import process
from bench.cluster import reason_in, stop_and_tell
from tests.bench.test_process import BOUND_S, SLEEP, STUBBORN, until_text

LOGGED = '{"event": "starting"}\n'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{LOGGED}raftd: data of another node\n{LOGGED}", "raftd: data of another node"),
        (f"Traceback:\n  File\nKeyError: 1\n{LOGGED}\n", "KeyError: 1"),
        (LOGGED, LOGGED.strip()),
        ("", "it wrote nothing"),
    ],
)
def test_the_reason_is_the_last_line_for_people_of_this_run(tmp_path: Path, text: str, reason: str) -> None:
    log = tmp_path / "log"
    earlier = "raftd: what was wrong the last time\n"
    log.write_text(earlier + text)
    assert reason_in(log, len(earlier)) == reason


async def test_a_process_that_had_to_be_killed_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    child = process.start([sys.executable, "-c", STUBBORN], tmp_path / "log")
    await until_text(tmp_path / "log", "up")
    await stop_and_tell("n1", child, 0.1)
    said = f"n1 (pid {child.pid}) did not stop within 0.1 s of SIGTERM: killed by SIGKILL\n"
    assert capsys.readouterr().err == said
    await stop_and_tell("n1", child, 0.1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (SLEEP, ""),
        (
            f"import signal, sys; signal.signal(15, lambda *_: sys.exit(1)); {SLEEP}",
            "ended with status 1 when",
        ),
        (f"import signal, sys; signal.signal(15, lambda *_: sys.exit(0)); {SLEEP}", ""),
    ],
)
async def test_only_an_end_out_of_order_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], program: str, said: str
) -> None:
    child = process.start([sys.executable, "-c", program], tmp_path / "log")
    await until_text(tmp_path / "log", "up")
    await stop_and_tell("n1", child, BOUND_S)
    error = capsys.readouterr().err
    assert said in error if said else not error

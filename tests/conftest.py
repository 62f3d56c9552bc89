"""What all tests share: with RAFTD_NO_SKIPS=1, as `.ci/run` sets it, a skipped test is a failure."""

import os

import pytest


def _skips_that_count(config: pytest.Config) -> int:
    # Workers of pytest-xdist report to the main process, which alone judges.
    if os.environ.get("RAFTD_NO_SKIPS") != "1" or hasattr(config, "workerinput"):
        return 0
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return len(reporter.stats.get("skipped", [])) if reporter is not None else 0


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.OK and _skips_that_count(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if count := _skips_that_count(config):
        terminalreporter.write_line(f"RAFTD_NO_SKIPS: {count} skipped, which is a failure here", red=True)

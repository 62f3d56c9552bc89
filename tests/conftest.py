"""Options and hooks that all tests share."""

from collections import Counter

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="write the traces of tests/scripts/*.txt anew, for you to review",
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the simulated histories saw in all, wherever they ran: a green test that saw no fault proves
    nothing."""
    seen: Counter[str] = Counter()
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "simulation":
                seen.update(value)
    if seen:
        terminalreporter.section("simulation")
        terminalreporter.write_line(", ".join(f"{mark} {count}" for mark, count in seen.items()))

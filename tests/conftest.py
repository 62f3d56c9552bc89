"""Options and hooks that all tests share."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite",
        action="store_true",
        help="write the traces of tests/scripts/*.txt anew, for you to review",
    )

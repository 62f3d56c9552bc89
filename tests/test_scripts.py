"""The golden scripts of tests/scripts: each trace must come out exactly as it stands there."""

from pathlib import Path

import pytest

from tests.scripts.runner import Script

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script(path: Path, pytestconfig: pytest.Config) -> None:
    """`pytest --rewrite tests/test_scripts.py` writes the traces anew."""
    expected = path.read_text()
    actual = Script().run(expected)
    if pytestconfig.getoption("--rewrite"):
        path.write_text(actual)
    else:
        assert actual.splitlines() == expected.splitlines()


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) >= 15

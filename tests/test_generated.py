"""The committed protobuf code is what the compiler makes of the `.proto` files today."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same command as `make proto`, into an empty directory."""
    directory = tmp_path_factory.mktemp("generated")
    protos = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "proto").glob("*.proto"))
    plugin = Path(sys.executable).with_name("protoc-gen-mypy")
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--plugin=protoc-gen-mypy={plugin}"]
    outputs = [f"--python_out={directory}", f"--mypy_out=quiet:{directory}"]
    subprocess.run([*command, *outputs, *protos], cwd=ROOT, check=True, timeout=60)
    return directory


def test_generated_code_is_fresh(generated: Path) -> None:
    made = {path.name: path.read_text() for path in (generated / "proto").iterdir()}
    committed = {path.name: path.read_text() for path in (ROOT / "proto").glob("*_pb2.py*")}
    assert sorted(made) == sorted(committed)
    stale = [name for name, text in made.items() if text != committed[name]]
    assert stale == [], "run `make proto`"

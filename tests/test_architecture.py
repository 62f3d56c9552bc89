"""The shape of the code, as ARCHITECTURE.md draws it: who may import whom, how long a thing may get."""

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROGRAMS = ("proto", "raftd", "proxyd", "clientctl", "bench")
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 60

MAY_IMPORT = {
    "proto": {"proto"},
    "raftd": {"proto", "raftd"},
    "clientctl": {"proto", "clientctl"},
    "proxyd": {"proto", "clientctl", "proxyd"},
    "bench": {"proto", "clientctl", "bench"},
}

# Inside raftd, from the inside out: a layer imports itself and what it names, nothing else of raftd.
RAFTD_MAY_IMPORT = {
    "raftd.core": set[str](),
    "raftd.kv": {"raftd.core"},
    "raftd.store": {"raftd.core"},
}

# What a state machine that must be the same on every node, and a core without clock and I/O, have no use for.
CORE_BANNED = {
    *("asyncio", "datetime", "io", "logging", "os", "pathlib", "secrets", "selectors", "signal", "socket"),
    *("ssl", "subprocess", "sys", "threading", "time", "uuid"),
}
KV_BANNED = {"random", "time", "datetime", "os", "secrets", "uuid", "trio", "lmdb", "threading", "asyncio"}

GRPC_LOOP = {"asyncio", "uvloop", "grpc.aio"}
BRIDGE = "proto.bridge"


def sources() -> list[Path]:
    return [
        path
        for program in PROGRAMS
        for path in sorted((ROOT / program).rglob("*.py"))
        if not path.name.endswith("_pb2.py")
    ]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), str(path))


def imports(path: Path) -> Iterator[str]:
    """Every imported module; for `from a import b` both a and a.b, since b may be a module."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module is not None, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


every_source = pytest.mark.parametrize("path", sources(), ids=module_name)


@every_source
def test_imports_point_one_way(path: Path) -> None:
    """proto ← clientctl ← proxyd, bench; proto ← raftd."""
    program = path.relative_to(ROOT).parts[0]
    foreign = {name.split(".")[0] for name in imports(path)} & set(PROGRAMS)
    assert foreign <= MAY_IMPORT[program]


@every_source
def test_layers_of_raftd_point_inwards(path: Path) -> None:
    """core ← kv, store ← node ← services."""
    module = module_name(path)
    for layer, inner in RAFTD_MAY_IMPORT.items():
        if within(module, {layer}):
            outside = {name for name in imports(path) if within(name, {"raftd"})}
            # The package itself is named by `from raftd.core import messages`, and holds nothing.
            assert {name for name in outside if not within(name, {layer, *inner})} == set()
    if within(module, {"raftd"}) and not within(module, {"raftd.services", "raftd.main"}):
        assert not [name for name in imports(path) if within(name, {"raftd.services"})]


@every_source
def test_the_core_is_pure(path: Path) -> None:
    """No clock, no randomness of its own, no I/O, no Trio, no logging: time and randomness are handed in."""
    if not within(module_name(path), {"raftd.core"}):
        return
    for name in imports(path):
        top = name.split(".")[0]
        assert top == "raftd" or top in sys.stdlib_module_names, name
        assert top not in CORE_BANNED, name
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random":
            assert node.attr == "Random", f"line {node.lineno}: the shared generator is not deterministic"


@every_source
def test_the_state_machine_is_deterministic(path: Path) -> None:
    """Every node computes the same result from the same log (hazard 33)."""
    if within(module_name(path), {"raftd.kv"}):
        assert not [name for name in imports(path) if name.split(".")[0] in KV_BANNED]


@every_source
def test_asyncio_is_confined_to_the_bridge(path: Path) -> None:
    """One asyncio loop per process, in one module (hazard 81)."""
    if module_name(path) != BRIDGE:
        assert not [name for name in imports(path) if within(name, GRPC_LOOP)]


def test_proto_itself_imports_nothing() -> None:
    assert not list(imports(ROOT / "proto" / "__init__.py"))


@every_source
def test_files_and_functions_are_short(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= FILE_LINES_MAX
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno < FUNCTION_LINES_MAX, node.name


@every_source
def test_no_exception_is_swallowed_unseen(path: Path) -> None:
    """Neither a bare except nor one whose body is nothing but pass without a reason (hazard 85)."""
    lines = path.read_text().splitlines()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"line {node.lineno}: bare except"
            if len(node.body) == 1 and isinstance(node.body[0], ast.Pass):
                around = "\n".join(lines[node.lineno - 2 : node.body[0].lineno])
                assert "#" in around, f"line {node.lineno}: says not why nothing is done"


@every_source
def test_a_module_says_what_it_is_for(path: Path) -> None:
    assert path.name == "__init__.py" or ast.get_docstring(tree(path)), "no module docstring"


@every_source
def test_no_module_is_a_drawer(path: Path) -> None:
    assert not re.search(r"util|helper|common|misc|manager", path.stem)


@every_source
def test_the_architecture_page_names_every_module(path: Path) -> None:
    if path.name in ("__init__.py", "__main__.py"):
        return
    page = (ROOT / "ARCHITECTURE.md").read_text()
    name = str(path.relative_to(ROOT))
    assert re.search(rf"`{re.escape(name)}`", page), f"{name} is not in the file map"


def test_the_architecture_page_names_no_module_that_is_gone() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`((?:%s)/[\w/]+\.(?:py|proto))`" % "|".join(PROGRAMS), page))
    assert sorted(name for name in named if not (ROOT / name).exists()) == []

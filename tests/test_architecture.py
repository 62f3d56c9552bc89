"""The shape of the code, as ARCHITECTURE.md draws it: who may import whom, how long a thing may get."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

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
    # The map that it offers to the state machine is defined where it is used.
    "raftd.store": {"raftd.core", "raftd.kv.transaction"},
}

# What binds the layers together, from the outside.
SERVING = {"raftd.services", "raftd.peers.service", "raftd.server", "raftd.main"}

# What a state machine that must be the same on every node, and a core without clock and I/O, have no use for.
CORE_BANNED = {
    *("asyncio", "datetime", "io", "logging", "os", "pathlib", "secrets", "selectors", "signal", "socket"),
    *("ssl", "subprocess", "sys", "threading", "time", "uuid"),
}
KV_BANNED = {"random", "time", "datetime", "os", "secrets", "uuid", "trio", "lmdb", "threading", "asyncio"}

GRPC = {"asyncio", "uvloop", "grpc"}
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
            assert node.module is not None
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, packages: set[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def python_modules(package: str = "") -> list[tuple[str, Path]]:
    """Name and path of each module of ours, or of those within `package`; generated code is left out."""
    named = [(module_name(path), path) for path in sources()]
    return [(name, path) for name, path in named if not package or within(name, {package})]


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and length in lines."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield node.name, node.end_lineno - node.lineno + 1


def beneath(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    for node in nodes:
        yield from ast.walk(node)


def attributes_of(name: str, node: ast.AST) -> Iterator[str]:
    """What is taken from the module `name` beneath `node`; functions with a parameter of that name
    excepted."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        if name in {argument.arg for argument in arguments}:
            return
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name:
        yield node.attr
    for child in ast.iter_child_nodes(node):
        yield from attributes_of(name, child)


def test_imports_point_one_way() -> None:
    """proto ← clientctl ← proxyd, bench; proto ← raftd."""
    for module, path in python_modules():
        foreign = {name.split(".")[0] for name in imports(path)} & set(PROGRAMS)
        assert foreign <= MAY_IMPORT[module.split(".")[0]], module


def test_layers_of_raftd_point_inwards() -> None:
    """core ← kv, store ← node ← services."""
    for layer, inner in RAFTD_MAY_IMPORT.items():
        for module, path in python_modules(layer):
            outer = {name for name in imports(path) if within(name, {"raftd"})}
            assert not {name for name in outer if not within(name, {layer, *inner})}, module
    for module, path in python_modules("raftd"):
        if not within(module, SERVING):
            assert not [name for name in imports(path) if within(name, {"raftd.services"})], module


def test_the_core_is_pure() -> None:
    """No clock, no randomness of its own, no I/O, no Trio, no logging: time and randomness are handed in."""
    for module, path in python_modules("raftd.core"):
        for name in {name.split(".")[0] for name in imports(path)} - {"raftd"}:
            assert name in sys.stdlib_module_names, (module, name)
            assert name not in CORE_BANNED, (module, name)
        # `random.Random` is the type of the generator that is handed in, often under the module's name.
        drawn = set(attributes_of("random", tree(path)))
        assert drawn <= {"Random"}, (module, drawn)


def test_the_state_machine_is_deterministic() -> None:
    """Every node computes the same result from the same log (hazard 33)."""
    for module, path in python_modules("raftd.kv"):
        assert not [name for name in imports(path) if name.split(".")[0] in KV_BANNED], module


def test_asyncio_is_confined_to_the_bridge() -> None:
    """One asyncio loop per process, and grpc, in one package (hazard 81)."""
    for module, path in python_modules():
        if not within(module, {BRIDGE}):
            assert not [name for name in imports(path) if within(name, GRPC)], module


def test_proto_itself_imports_nothing() -> None:
    assert not list(imports(ROOT / "proto" / "__init__.py"))


def test_files_and_functions_are_short() -> None:
    for module, path in python_modules():
        assert len(path.read_text().splitlines()) <= FILE_LINES_MAX, module
        assert not [name for name, lines in functions(path) if lines > FUNCTION_LINES_MAX], module


def test_no_exception_is_swallowed_unseen() -> None:
    """Neither a bare except nor one that does nothing without saying why (hazard 85)."""
    for module, path in python_modules():
        lines = path.read_text().splitlines()
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ExceptHandler):
                assert node.type is not None, f"{module} line {node.lineno}: bare except"
                if len(node.body) == 1 and isinstance(node.body[0], ast.Pass):
                    around = "\n".join(lines[node.lineno - 2 : node.body[0].lineno])
                    assert "#" in around, f"{module} line {node.lineno}: does nothing and says not why"


def test_nothing_is_raised_where_a_group_is_caught() -> None:
    """Python below 3.11.4, Debian's for one, wraps what an `except*` raises into a group of its own, so that
    nobody recognises it: note it, and raise it behind."""
    for module, path in python_modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.TryStar):
                calls = [
                    ast.unparse(part.func) for part in beneath(node.handlers) if isinstance(part, ast.Call)
                ]
                assert "sys.exit" not in calls, f"{module} line {node.lineno}"
                raised = [part for part in beneath(node.handlers) if isinstance(part, ast.Raise)]
                assert not raised, f"{module} line {node.lineno}"


def test_a_module_says_what_it_is_for() -> None:
    assert not [
        name
        for name, path in python_modules()
        if path.stem != "__init__" and not ast.get_docstring(tree(path))
    ]


def test_no_module_is_a_drawer() -> None:
    assert not [
        name for name, path in python_modules() if re.search(r"util|helper|common|misc|manager", path.stem)
    ]


def test_the_architecture_page_names_every_module_and_no_other() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    programs = "|".join(PROGRAMS)
    named = set(re.findall(rf"`((?:{programs})/[\w/]+\.(?:py|proto))`", page))
    there = {str(path.relative_to(ROOT)) for _, path in python_modules() if not path.stem.startswith("__")}
    assert there - named == set()
    assert {name for name in named if not (ROOT / name).exists()} == set()

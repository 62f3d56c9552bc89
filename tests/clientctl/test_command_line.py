"""`clientctl` as a user meets it: arguments in, bytes and exit status out, on servers in memory."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clientctl import link
from clientctl.main import run
from proto import errors
from tests.clientctl.servers import Network, Node, Store


class CommandLine:
    """Runs verbs against one node."""

    def __init__(
        self, node: Node, monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[bytes]
    ) -> None:
        self.node = node
        self._monkeypatch = monkeypatch
        self._capture = capture
        self.stderr = ""

    def __call__(self, *arguments: str, stdin: bytes = b"") -> tuple[int, bytes]:
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        status = run(arguments)
        captured = self._capture.readouterr()
        self.stderr = captured.err.decode()
        return status, captured.out


@pytest.fixture(params=["sessions", "etcd"])
def clientctl(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> CommandLine:
    for name in os.environ:
        if name.startswith("CLIENTCTL_"):
            monkeypatch.delenv(name)
    node = Node(Store(), sessions=request.param == "sessions")
    network = Network({"127.0.0.1:2379": node, "n1:1": node})
    monkeypatch.setattr(link, "dial", network.dial)
    return CommandLine(node, monkeypatch, capfdbinary)


def test_put_get_del(clientctl: CommandLine) -> None:
    assert clientctl("put", "k", "v") == (0, b"OK\n")
    assert clientctl("get", "k") == (0, b"k\nv\n")
    assert clientctl("get", "k", "--print-value-only") == (0, b"v\n")
    assert clientctl("put", "k", "w", "--prev-kv") == (0, b"OK\nk\nv\n")
    assert clientctl("del", "k", "--prev-kv") == (0, b"1\nk\nw\n")
    assert clientctl("del", "k") == (0, b"0\n")
    assert clientctl.stderr == ""


def test_absent_key_is_status_1_and_an_empty_range_is_not(clientctl: CommandLine) -> None:
    assert clientctl("get", "k") == (1, b"")
    assert clientctl("get", "k", "--count-only") == (1, b"0\n")
    assert clientctl("get", "k", "--prefix") == (0, b"")
    assert clientctl("get", "a", "z") == (0, b"")
    assert clientctl("get", "k", "--from-key", "--count-only") == (0, b"0\n")


def test_ranges(clientctl: CommandLine) -> None:
    for key in ("a", "b1", "b2", "c"):
        clientctl("put", key, key.upper())
    assert clientctl("get", "b", "--prefix", "--keys-only") == (0, b"b1\n\nb2\n\n")
    assert clientctl("get", "a", "b2", "--print-value-only") == (0, b"A\nB1\n")
    assert clientctl("get", "b2", "--from-key", "--print-value-only") == (0, b"B2\nC\n")
    assert clientctl("get", "", "--prefix", "--count-only") == (0, b"4\n")
    assert clientctl("get", "", "--prefix", "--limit", "1") == (0, b"a\nA\n")
    newest = ("get", "", "--prefix", "--sort-by", "MODIFY", "--order=DESCEND", "--limit=1", "--consistency=s")
    assert clientctl(*newest) == (0, b"c\nC\n")
    assert clientctl("get", "c", "--rev", "4") == (1, b"")
    assert clientctl("del", "b", "--prefix") == (0, b"2\n")


def test_values_may_be_any_bytes(clientctl: CommandLine) -> None:
    data = bytes(range(256)) + b"\n"
    assert clientctl("put", "k", stdin=data) == (0, b"OK\n")
    assert clientctl("get", "k", "--print-value-only") == (0, data + b"\n")
    argument = os.fsdecode(b"\xff\xfe")
    assert clientctl("put", argument, argument) == (0, b"OK\n")
    assert clientctl("get", argument) == (0, b"\xff\xfe\n\xff\xfe\n")
    assert clientctl("get", argument, "--hex") == (0, b"\\xff\\xfe\n\\xff\\xfe\n")


def test_values_that_look_like_flags(clientctl: CommandLine) -> None:
    assert clientctl("put", "k", "--", "-v")[0] == 0
    assert clientctl("put", "--", "-k", "--prev-kv")[0] == 0
    assert clientctl("get", "--", "-k") == (0, b"-k\n--prev-kv\n")
    assert clientctl("put", "k", "-v")[0] == 2


def test_ignore_value(clientctl: CommandLine) -> None:
    clientctl("put", "k", "v")
    assert clientctl("put", "k", "--ignore-value") == (0, b"OK\n")
    assert clientctl("put", "k", "w", "--ignore-value")[0] == 2
    assert clientctl("put", "absent", "--ignore-value")[0] == 3
    assert "key not found" in clientctl.stderr


def test_json(clientctl: CommandLine) -> None:
    _, out = clientctl("put", "k", "v", "-w", "json")
    header = {"cluster_id": 193, "member_id": 1, "revision": 2, "raft_term": 7}
    assert json.loads(out) == {"header": header}
    status, out = clientctl("-w=json", "get", "k")
    pair = {"key": "aw==", "create_revision": 2, "mod_revision": 2, "version": 1, "value": "dg=="}
    assert (status, json.loads(out)) == (0, {"header": header, "kvs": [pair], "count": 1})
    status, out = clientctl("get", "absent", "--write-out=json")
    assert (status, json.loads(out)) == (1, {"header": header})


def test_tables(clientctl: CommandLine) -> None:
    _, out = clientctl("put", "k", "v", "--prev-kv", "-w", "table")
    assert b"REVISION" in out
    _, out = clientctl("get", "k", "-w", "table")
    assert b"|   k |     v |" in out
    _, out = clientctl("del", "k", "-w", "table", "--prev-kv")
    assert b"| DELETED |" in out


SCRIPT = b"""\
version("k") = "0"

put k "a b"
get k
del absent

get k --prefix --keys-only
put k c --prev-kv

"""


def test_txn(clientctl: CommandLine) -> None:
    assert clientctl("txn", stdin=SCRIPT) == (0, b"SUCCESS\n\nOK\n\nk\na b\n\n0\n")
    assert clientctl("txn", stdin=SCRIPT) == (1, b"FAILURE\n\nk\n\n\nOK\nk\na b\n")
    status, out = clientctl("txn", "-w", "json", stdin=b"\nget k\n\n\n")
    reply = json.loads(out)
    assert (status, reply["succeeded"]) == (0, True)
    assert reply["responses"][0]["Response"]["ResponseRange"]["count"] == 1


def test_txn_asks_for_its_sections(clientctl: CommandLine) -> None:
    assert clientctl("txn", "-i", stdin=b"\n\n\n") == (0, b"SUCCESS\n")
    asked = "compares:\nsuccess requests (get, put, del):\nfailure requests (get, put, del):\n"
    assert clientctl.stderr == asked


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        (b"nonsense\n\n\n\n", "malformed comparison: nonsense"),
        (b"\nfly k\n\n\n", "not put, get or del: fly k"),
        (b"\nput k\n\n\n", "put needs a value"),
        (b"\nget k --bogus\n\n\n", "No such option"),
        (b"\nget k\n", "ended before"),
        (b"", "ended before"),
    ],
)
def test_a_malformed_txn_is_not_sent(clientctl: CommandLine, script: bytes, complaint: str) -> None:
    assert clientctl("txn", stdin=script) == (2, b"")
    assert complaint in clientctl.stderr
    assert clientctl.node.writes == clientctl.node.reads == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["bogus"],
        ["get"],
        ["put"],
        ["get", "a", "b", "c"],
        ["get", "k", "--limit=-1"],
        ["get", "k", "--rev=x"],
        ["get", "k", "--consistency", "x"],
        ["get", "k", "--sort-by", "x"],
        ["get", "k", "m", "--prefix"],
        ["get", "k", "--prefix", "--from-key"],
        ["get", "k", "--keys-only", "--count-only"],
        ["get", "k", "--print-value-only", "-w", "json"],
        ["get", "k", "-w", "xml"],
        ["get", "k", "--timeout", "soon"],
        ["get", "k", "--timeout", "-1s"],
        ["get", "k", "--endpoints", "nowhere"],
        ["get", "k", "--endpoints", ","],
        ["txn", "-w", "table"],
        ["get", "k", "--endpoints"],
        ["endpoint"],
        ["endpoint", "bogus"],
        ["endpoint", "--endpoints", "nowhere", "status"],
        ["lease", "grant"],
        ["completion"],
        ["--endpoints", "n1:1"],
        ["get", "k", "--config-file", "/absent.toml"],
    ],
)
def test_wrong_usage_is_status_2_and_sends_nothing(clientctl: CommandLine, arguments: list[str]) -> None:
    assert clientctl(*arguments) == (2, b"")
    [line] = clientctl.stderr.splitlines()
    assert line.startswith("clientctl: ")
    assert line.endswith(" --help")
    assert clientctl.node.dialled == 0


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("put", "put: missing argument KEY; see clientctl put --help"),
        ("bogus", "no such command 'bogus'; see clientctl --help"),
        ("lease grant", "lease grant: missing argument TTL; see clientctl lease grant --help"),
        ("endpoint", "endpoint: missing command; see clientctl endpoint --help"),
        (
            "get k m --prefix",
            "get: RANGE_END cannot be given with --prefix or --from-key; see clientctl get --help",
        ),
        (
            "put k v --ignore-value",
            "put: needs no value when --ignore-value is set; see clientctl put --help",
        ),
    ],
)
def test_wrong_usage_is_one_line_that_says_what_to_do(
    clientctl: CommandLine, line: str, complaint: str
) -> None:
    assert clientctl(*line.split()) == (2, b"")
    assert clientctl.stderr == f"clientctl: {complaint}\n"


def test_a_put_whose_answer_is_lost_is_status_5_and_is_done(
    clientctl: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazard 87: "wrong usage" or "not done" would have a script put it again."""
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert clientctl("put", "k", "v")[0] == 5
    assert clientctl.stderr.startswith("Error: done, but the answer could not be shown: ")
    assert clientctl("get", "k") == (0, b"k\nv\n")


def test_global_flags_stand_anywhere(clientctl: CommandLine) -> None:
    assert clientctl("endpoint", "--endpoints", "n1:1", "status")[1].startswith(b"n1:1, 1, ")
    order = ("--endpoints=n2:1", "endpoint", "--endpoints=n3:1", "status", "--endpoints=n1:1")
    assert clientctl(*order)[1].startswith(b"n1:1, 1, ")
    assert clientctl("-w", "json", "member", "-w", "table", "list")[1].startswith(b"+---")


def test_version_flag(clientctl: CommandLine) -> None:
    status, out = clientctl("--version")
    assert status == 0
    assert out == b"clientctl " + clientctl("version")[1].splitlines()[0].split()[-1] + b"\n"


def test_certainly_not_done_is_status_3(clientctl: CommandLine) -> None:
    assert clientctl("put", "", "v") == (3, b"")
    assert clientctl.stderr == "Error: etcdserver: key is not provided\n"
    assert clientctl("get", "k", "--rev=99")[0] == 3
    assert "future revision" in clientctl.stderr
    clientctl.node.up = False
    assert clientctl("put", "k", "v", "--dial-timeout=10ms") == (3, b"")
    assert "failed to connect" in clientctl.stderr
    assert clientctl("get", "k", "--timeout=50ms")[0] == 3
    assert clientctl("member", "list", "--timeout=50ms")[0] == 3


def test_unknown_outcome_is_status_4_and_says_so(clientctl: CommandLine) -> None:
    """Hazard 87."""
    answer = clientctl.node.answer

    def answer_registrations_only(request: object) -> object:
        reply = answer(request)  # type: ignore[arg-type]
        clientctl.node.silent = any(result.session for result in reply.results)
        return reply

    if clientctl.node.sessions:
        clientctl.node.answer = answer_registrations_only  # type: ignore[assignment, method-assign]
    else:
        clientctl.node.silent = True
    assert clientctl("put", "k", "v", "--timeout=300ms") == (4, b"")
    assert "outcome unknown" in clientctl.stderr


def test_endpoint_status(clientctl: CommandLine) -> None:
    line = b"127.0.0.1:2379, 1, 3.5.0, 20 kB, true, false, 0, 1, 0, \n"
    assert clientctl("endpoint", "status") == (0, line)
    status, out = clientctl("endpoint", "status", "-w", "json")
    (found,) = json.loads(out)
    assert (status, found["Endpoint"], found["Status"]["dbSize"]) == (0, "127.0.0.1:2379", 20480)
    assert clientctl("endpoint", "status", "--cluster")[1].startswith(b"http://n1:1, 1, ")
    status, out = clientctl("endpoint", "status", "--endpoints", "n1:1,n2:1,http://n1:1")
    assert (status, out.count(b"\n")) == (3, 2)
    assert "Failed to get the status of endpoint n2:1" in clientctl.stderr


def test_endpoint_health(clientctl: CommandLine) -> None:
    status, out = clientctl("endpoint", "health")
    assert status == 0
    assert out.startswith(b"127.0.0.1:2379 is healthy: successfully committed proposal: took = ")
    status, out = clientctl("endpoint", "health", "--endpoints=n1:1,n2:1", "-w", "json")
    answers = {answer["endpoint"]: answer["health"] for answer in json.loads(out)}
    assert (status, answers) == (3, {"n1:1": True, "n2:1": False})
    clientctl.node.refuses_reads = errors.UNAVAILABLE
    assert clientctl("endpoint", "health") == (3, b"")
    assert "127.0.0.1:2379 is unhealthy" in clientctl.stderr
    assert b"|  false |" in clientctl("endpoint", "health", "-w", "table")[1]


def test_member_list_and_version(clientctl: CommandLine) -> None:
    assert clientctl("member", "list") == (0, b"1, started, n1, , http://n1:1, false\n")
    status, out = clientctl("version")
    assert status == 0
    assert out.startswith(b"clientctl version: ")
    assert out.endswith(b"API version: 3.5\n")
    assert clientctl("member", "list", "-w", "table")[1].startswith(b"+---")


def test_settings_come_from_flag_environment_file_default(
    clientctl: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The nearer one counts, and a flag after the verb is nearer than one before it."""
    file = tmp_path / "settings.toml"
    file.write_text(
        'write-out = "json"\nendpoints = ["n1:1", "n2:1"]\n"command-timeout" = "2s"\nhex = false\n'
    )
    assert clientctl("put", "k", "v") == (0, b"OK\n")
    assert clientctl("--config-file", str(file), "get", "k")[1].startswith(b"{")
    monkeypatch.setenv("CLIENTCTL_CONFIG_FILE", str(file))
    assert clientctl("get", "k")[1].startswith(b"{")
    monkeypatch.setenv("CLIENTCTL_WRITE_OUT", "table")
    assert clientctl("get", "k")[1].startswith(b"+")
    assert clientctl("-w", "simple", "get", "k") == (0, b"k\nv\n")
    assert clientctl("-w", "json", "get", "k", "-w", "simple") == (0, b"k\nv\n")
    monkeypatch.setenv("CLIENTCTL_ENDPOINTS", "n1:1")
    assert clientctl("endpoint", "status", "-w=simple")[1].startswith(b"n1:1, ")
    monkeypatch.setenv("CLIENTCTL_HEX", "true")
    assert clientctl("get", "k", "-w=simple") == (0, b"\\x6b\n\\x76\n")
    monkeypatch.setenv("CLIENTCTL_GET_PREFIX", "true")
    assert clientctl("get", "", "-w=simple")[0] == 0


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("endpoints = ", "Invalid value"),
        ('bogus = "x"', "unknown setting 'bogus'"),
        ('timeout = "never"', "timeout: 'never' is not"),
        ('timeout = "1s"\ncommand-timeout = "2s"', "given twice"),
        ('endpoints = "here"', "expected HOST:PORT"),
        ("[endpoints]\na = 1", "endpoints"),
        ('hex = "maybe"', "neither true nor false"),
    ],
)
def test_a_bad_config_file_is_named(
    clientctl: CommandLine, tmp_path: Path, text: str, complaint: str
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    assert clientctl("get", "k", "--config-file", str(file)) == (2, b"")
    assert complaint in clientctl.stderr
    assert str(file) in clientctl.stderr


@pytest.mark.parametrize(
    ("shell", "status", "complaint"),
    [
        ("{clientctl} version | true; exit ${{PIPESTATUS[0]}}", 0, ""),
        (
            "{clientctl} version > /dev/full",
            5,
            "done, but the answer could not be shown: standard output: No",
        ),
        ("{clientctl} version >&-", 5, "standard output is closed"),
        ("{clientctl} --version > /dev/full", 5, "No space left on device"),
        ("{clientctl} put k <&-", 2, "standard input is closed"),
    ],
)
def test_streams_that_do_not_work(shell: str, status: int, complaint: str) -> None:
    command = shell.format(clientctl=f"{sys.executable} -m clientctl.main")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


def test_help_needs_neither_trio_nor_grpc() -> None:
    """Start-up time is part of the command's manners."""
    program = (
        "import sys; from clientctl.main import run\n"
        "run(['put', '--help']); print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert "Set KEY to VALUE" in done.stdout
    assert not loaded & {"trio", "grpc", "asyncio", "google.protobuf", "structlog", "rich", "uvloop"}


def test_a_whole_put_loads_nothing_that_is_not_needed() -> None:
    program = (
        "import sys; from clientctl.main import run\n"
        "run(['--endpoints=127.0.0.1:1', '--dial-timeout=1ms', 'put', 'k', 'v'])\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert "grpc" in loaded
    assert not loaded & {"structlog", "rich", "importlib.metadata", "raftd", "lmdb", "msgpack"}

"""raftd's options: each mistake gets one line that names it, and where a value comes from is settled."""

from pathlib import Path

import pytest

from proto.configuration import Answered, ConfigurationError, load
from raftd.options import NodeConfiguration

THREE = "n1=http://127.0.0.1:2380,n2=http://127.0.0.1:2390,n3=http://127.0.0.1:2400"


def configured(*arguments: str, environ: dict[str, str] | None = None) -> NodeConfiguration:
    return load(NodeConfiguration, "raftd", "1.0", "About.", arguments, environ or {})


def test_a_node_needs_no_options() -> None:
    it = configured()
    assert it.name == "default"
    assert it.directory == Path("default.raftd")
    assert it.client_urls == ("http://127.0.0.1:2379",)
    assert it.peer_urls == ("http://127.0.0.1:2380",)
    assert it.members == {"default": "http://127.0.0.1:2380"}
    assert (it.heartbeat_interval_ms, it.election_timeout_ms) == (50, 300)


def test_a_member_of_three() -> None:
    it = configured(
        *("--name", "n2", "--data-dir", "/d", "--initial-cluster", THREE),
        *("--listen-peer-urls", "http://0.0.0.0:2390"),
        *("--initial-advertise-peer-urls", "http://127.0.0.1:2390/"),
        *("--listen-client-urls", "http://127.0.0.1:2389,http://[::1]:2389"),
    )
    assert it.directory == Path("/d")
    assert it.members == {
        "n1": "http://127.0.0.1:2380",
        "n2": "http://127.0.0.1:2390",
        "n3": "http://127.0.0.1:2400",
    }
    assert it.client_urls == ("http://127.0.0.1:2389", "http://[::1]:2389")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--nmae n1", "unknown flag --nmae (did you mean --name?); see raftd --help"),
        ("n1", "unexpected argument 'n1'; see raftd --help"),
        ("--name", "--name needs a value"),
        ("--name a --name b", "--name is given twice; give it once"),
        (
            "--election-timeout 249",
            "--election-timeout 249 is not well above --heartbeat-interval 50; give at least 250",
        ),
        (
            "--heartbeat-interval 100",
            "--election-timeout 300 is not well above --heartbeat-interval 100; give at least 500",
        ),
        ("--heartbeat-interval 0", "--heartbeat-interval must be a whole number from 5 to 10000, not '0'"),
        ("--election-timeout fast", "--election-timeout must be a whole number from 50 to 50000, not 'fast'"),
        (
            "--initial-cluster-state old",
            "--initial-cluster-state must be one of new, existing, not 'old'",
        ),
        (
            "--listen-client-urls 127.0.0.1:2379",
            "--listen-client-urls must be http://HOST:PORT, not '127.0.0.1:2379'",
        ),
        (
            "--listen-peer-urls https://127.0.0.1:2380",
            "--listen-peer-urls must be http://HOST:PORT (TLS is not supported), not 'https://127.0.0.1:2380'",
        ),
        (
            "--listen-client-urls http://127.0.0.1:1,http://127.0.0.1:1",
            "--listen-client-urls names http://127.0.0.1:1 twice; name it once",
        ),
        (
            "--listen-client-urls http://127.0.0.1:2380",
            "--listen-client-urls and --listen-peer-urls are both http://127.0.0.1:2380; "
            "give each its own port",
        ),
        (
            "--listen-client-urls http://0.0.0.0:2379",
            "--advertise-client-urls: nobody can reach http://0.0.0.0:2379; give a host and a port",
        ),
        (
            "--listen-peer-urls http://[::]:2380",
            "--initial-advertise-peer-urls: nobody can reach http://[::]:2380; give a host and a port",
        ),
        (
            "--advertise-client-urls http://127.0.0.1:0",
            "--advertise-client-urls: nobody can reach http://127.0.0.1:0; give a host and a port",
        ),
        (
            "--advertise-client-urls http://127.0.0.1:2380",
            "--advertise-client-urls and --initial-advertise-peer-urls are both http://127.0.0.1:2380; "
            "give each its own port",
        ),
        (
            f"--name n9 --initial-cluster {THREE}",
            "--name n9 is not in --initial-cluster (n1, n2, n3); correct one of them",
        ),
        (
            "--name n1 --initial-cluster n1=http://127.0.0.1:2380,n1=http://127.0.0.1:2390",
            "--initial-cluster names n1 twice; give each member one address",
        ),
        (
            "--name n1 --initial-cluster n1=http://127.0.0.1:2380,n2=http://127.0.0.1:2380",
            "--initial-cluster has http://127.0.0.1:2380 twice; no two members share one",
        ),
        (
            "--name n1 --initial-cluster n1=http://127.0.0.1:9999",
            "--initial-cluster has n1 at http://127.0.0.1:9999, but --initial-advertise-peer-urls is "
            "http://127.0.0.1:2380; correct one of them",
        ),
        (
            "--initial-cluster n1",
            "--initial-cluster must be NAME=http://HOST:PORT for each member, separated by commas, not 'n1'",
        ),
        (
            "--initial-cluster =http://127.0.0.1:2380",
            "--initial-cluster must be NAME=http://HOST:PORT for each member, separated by commas, "
            "not '=http://127.0.0.1:2380'",
        ),
        ("--config-file /nowhere.toml", "cannot read --config-file /nowhere.toml: No such file or directory"),
        ("--log-level loud", "--log-level must be one of debug, info, warning, error, not 'loud'"),
    ],
)
def test_a_mistake_is_one_line(arguments: str, line: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        configured(*arguments.split())
    assert str(refused.value) == line


def test_flag_before_environment_before_file(tmp_path: Path) -> None:
    file = tmp_path / "raftd.toml"
    file.write_text(
        'name = "file"\ninitial-cluster-token = "file"\nheartbeat-interval = 20\n'
        'listen-client-urls = ["http://127.0.0.1:1", "http://127.0.0.1:2"]\n'
    )
    it = configured(
        *("--name", "flag"),
        environ={
            "RAFTD_NAME": "environment",
            "RAFTD_INITIAL_CLUSTER_TOKEN": "environment",
            "RAFTD_CONFIG_FILE": str(file),
        },
    )
    assert it.name == "flag"
    assert it.initial_cluster_token == "environment"
    assert it.heartbeat_interval_ms == 20
    assert it.listen_client_urls == ("http://127.0.0.1:1", "http://127.0.0.1:2")
    assert it.election_timeout_ms == 300


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("name = ", "is not valid TOML"),
        ("nmae = 'n1'", "unknown key nmae in"),
        ("heartbeat-interval = 1.5", "must be a string, a whole number"),
        ("election-timeout = 10", "must be a whole number from 50 to 50000, not '10'"),
    ],
)
def test_a_mistake_in_the_file_names_it(tmp_path: Path, content: str, problem: str) -> None:
    file = tmp_path / "raftd.toml"
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=problem) as refused:
        configured("--config-file", str(file))
    assert str(file) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_mistake_in_the_environment_names_it() -> None:
    with pytest.raises(ConfigurationError, match=r"^RAFTD_ELECTION_TIMEOUT must be a whole number"):
        configured(environ={"RAFTD_ELECTION_TIMEOUT": "1s"})


def test_help_names_every_flag_and_variable() -> None:
    with pytest.raises(Answered) as answer:
        configured("--help")
    for flag in ("data-dir", "initial-cluster", "election-timeout"):
        assert f"--{flag}" in str(answer.value)
        assert f"RAFTD_{flag.upper().replace('-', '_')}" in str(answer.value)


def test_a_retention_that_makes_no_sense_is_named() -> None:
    with pytest.raises(
        ConfigurationError, match="--auto-compaction-retention 5m: give a number of revisions"
    ):
        configured("--auto-compaction-mode", "revision", "--auto-compaction-retention", "5m")

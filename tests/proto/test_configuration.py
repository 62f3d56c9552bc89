"""Options: where they come from, which wins, and that whatever is wrong is said in one line."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proto.configuration import (
    Answered,
    Configuration,
    ConfigurationError,
    boolean,
    changed,
    choice,
    host_port,
    integer,
    listing,
    load,
    option,
    path,
    text,
    url,
)


@dataclass(frozen=True, kw_only=True)
class Demo(Configuration):
    name: str = field(default="default", metadata=option("name", text, "Name of the node."))
    data_dir: Path = field(metadata=option("data-dir", path, "Where the data are.", "DIRECTORY"))
    election_timeout_ms: int = field(
        default=300, metadata=option("election-timeout", integer(10, 50_000), "Milliseconds.", "MS")
    )
    heartbeat_interval_ms: int = field(
        default=50, metadata=option("heartbeat-interval", integer(1, 10_000), "Milliseconds.", "MS")
    )
    client_urls: tuple[str, ...] = field(
        default=("http://127.0.0.1:2379",), metadata=option("listen-client-urls", listing(url), "Addresses.")
    )
    verify: bool = field(default=False, metadata=option("verify", boolean, "Read all of it at the start."))

    def check(self) -> None:
        if self.election_timeout_ms < 5 * self.heartbeat_interval_ms:
            raise ConfigurationError("--election-timeout must be at least five times --heartbeat-interval")


def demo(*arguments: str, **environ: str) -> Demo:
    return load(Demo, "raftd", "1.2.3", "A data node.", arguments, environ)


def refusal(*arguments: str, **environ: str) -> str:
    with pytest.raises(ConfigurationError) as refused:
        demo(*arguments, **environ)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "raftd.toml"
    path.write_text('name = "file"\ndata-dir = "/file"\nelection-timeout = 1000\nverify = true\n')
    return path


def test_flag_before_environment_before_file_before_default(file: Path) -> None:
    told = demo(
        "--config-file", str(file), "--name", "flag", RAFTD_NAME="variable", RAFTD_DATA_DIR="/variable"
    )
    assert (told.name, told.data_dir, told.election_timeout_ms) == ("flag", Path("/variable"), 1000)
    assert (told.heartbeat_interval_ms, told.verify) == (50, True)


def test_the_file_may_be_named_by_the_environment(file: Path) -> None:
    assert demo(RAFTD_CONFIG_FILE=str(file)).name == "file"


def test_a_variable_set_to_nothing_is_not_set() -> None:
    assert demo("--data-dir", "d", RAFTD_NAME="").name == "default"


def test_forms_of_a_flag() -> None:
    assert demo("--data-dir=a=b").data_dir == Path("a=b")
    assert demo("--data-dir", "d", "--verify").verify
    assert demo("--data-dir", "d", "--verify", "--name", "n").name == "n"
    assert not demo("--data-dir", "d", "--verify=false").verify
    assert not demo("--data-dir", "d", "--verify", "false").verify


def test_lists_are_separated_by_commas_or_arrays_in_the_file(tmp_path: Path) -> None:
    two = ("http://a:1", "http://b:2")
    assert demo("--data-dir", "d", "--listen-client-urls", "http://a:1,http://b:2/").client_urls == two
    file = tmp_path / "it.toml"
    file.write_text('data-dir = "d"\nlisten-client-urls = ["http://a:1", "http://b:2"]')
    assert demo("--config-file", str(file)).client_urls == two


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--nmae", "x"], "unknown flag --nmae (did you mean --name?); see raftd --help"),
        (["--zzz"], "unknown flag --zzz; see raftd --help"),
        (["start"], "unexpected argument 'start'; see raftd --help"),
        (["-x"], "unexpected argument '-x'; see raftd --help"),
        (["--name"], "--name needs a value"),
        (["--name", "--data-dir", "d"], "--name needs a value"),
        (["--name", "a", "--name", "b"], "--name is given twice; give it once"),
        (["--name", "", "--data-dir", "d"], "--name must be something, not ''"),
        (["--log-level", "loud"], "--log-level must be one of debug, info, warning, error, not 'loud'"),
        (
            ["--election-timeout", "1s"],
            "--election-timeout must be a whole number from 10 to 50000, not '1s'",
        ),
        (["--verify=maybe"], "--verify must be true or false, not 'maybe'"),
        (
            ["--listen-client-urls", "127.0.0.1:1"],
            "--listen-client-urls must be http://HOST:PORT, not '127.0.0.1:1'",
        ),
        (
            ["--name", "x" * 100, "--verify=" + "y" * 100],
            f"--verify must be true or false, not '{'y' * 60}...'",
        ),
        (
            ["--election-timeout", "100"],
            "--election-timeout must be at least five times --heartbeat-interval",
        ),
    ],
)
def test_wrong_flags(arguments: list[str], complaint: str) -> None:
    assert refusal(*arguments, RAFTD_DATA_DIR="d") == complaint


def test_a_missing_option_says_every_way_to_give_it() -> None:
    assert refusal() == (
        "--data-dir is missing; give it, or set RAFTD_DATA_DIR, or data-dir in the --config-file"
    )


def test_a_wrong_variable_is_named() -> None:
    assert refusal(RAFTD_DATA_DIR="d", RAFTD_ELECTION_TIMEOUT="soon") == (
        "RAFTD_ELECTION_TIMEOUT must be a whole number from 10 to 50000, not 'soon'"
    )


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'nmae = "x"', "unknown key nmae in {} (did you mean name?); remove or correct it"),
        (
            b'config-file = "x"',
            "unknown key config-file in {} (did you mean config-file?); remove or correct it",
        ),
        (b"[raftd]\nname = 1", "unknown key raftd in {}; remove or correct it"),
        (b"name = 1.5", "name in {} must be a string, a whole number, true, false or an array of strings"),
        (b"name = []", "name in {} must be a string, a whole number, true, false or an array of strings"),
        (
            b"election-timeout = -1",
            "election-timeout in {} must be a whole number from 10 to 50000, not '-1'",
        ),
        (b"name = ", "--config-file {} is not valid TOML: Invalid value (at end of document)"),
        (b"name = '\xff'", "--config-file {} is not UTF-8 text"),
    ],
)
def test_wrong_files(tmp_path: Path, content: bytes, complaint: str) -> None:
    file = tmp_path / "raftd.toml"
    file.write_bytes(content)
    assert refusal("--data-dir", "d", "--config-file", str(file)) == complaint.format(file)


def test_unreadable_files(tmp_path: Path) -> None:
    absent = tmp_path / "absent.toml"
    assert refusal("--config-file", str(absent)) == (
        f"cannot read --config-file {absent}: No such file or directory"
    )
    assert refusal("--config-file", str(tmp_path)) == f"cannot read --config-file {tmp_path}: Is a directory"


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_shows_every_flag_with_default_and_variable(flag: str) -> None:
    with pytest.raises(Answered) as answer:
        demo("--name", "x", flag, "--unknown")
    shown = " ".join(str(answer.value).split())
    assert "--data-dir DIRECTORY Where the data are. [required; RAFTD_DATA_DIR]" in shown
    assert "--election-timeout MS Milliseconds. [default: 300; RAFTD_ELECTION_TIMEOUT]" in shown
    assert "--config-file FILE TOML file to read options from. [no default; RAFTD_CONFIG_FILE]" in shown
    assert "--verify Read all of it at the start. [default: false; RAFTD_VERIFY]" in shown
    assert max(map(len, str(answer.value).splitlines())) <= 100


def test_version() -> None:
    with pytest.raises(Answered, match=r"^raftd 1\.2\.3$"):
        demo("--version")


def test_what_differs_from_the_defaults_can_be_logged() -> None:
    told = demo(
        "--data-dir", "d", "--verify", "--listen-client-urls", "http://a:1,http://b:2", "--name", "default"
    )
    assert changed(told) == {
        "data-dir": "d",
        "verify": "true",
        "listen-client-urls": "http://a:1,http://b:2",
    }


@pytest.mark.parametrize("good", ["127.0.0.1:1", "localhost:0", "[::1]:65535", "a-b.example.org:80"])
def test_addresses(good: str) -> None:
    assert host_port(good) == good
    assert url(f"https://{good}/") == f"https://{good}"


@pytest.mark.parametrize(
    "bad", ["", "host", ":1", "host:", "host:65536", "host:-1", "::1:1", "a/b:1", "u@h:1", "h:١", "h:1/x"]
)
def test_no_addresses(bad: str) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        host_port(bad)
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        url(f"http://{bad}")


def test_choices() -> None:
    assert choice("new", "existing")("new") == "new"
    with pytest.raises(ValueError, match="one of new, existing"):
        choice("new", "existing")("old")


@pytest.mark.parametrize("bad", ["", "-", "1.0", "1e3", " 1", "+1", "٣", "9" * 30, "--5"])
def test_no_whole_numbers(bad: str) -> None:
    with pytest.raises(ValueError, match="a whole number from -5 to 5"):
        integer(-5, 5)(bad)

"""proxyd's flags: what is wrong is said in one line that names the flag."""

import pytest

from proto.configuration import ConfigurationError, load
from proxyd.config import MAX_ENDPOINTS
from proxyd.options import ProxyConfiguration


def given(*arguments: str, **environ: str) -> ProxyConfiguration:
    return load(ProxyConfiguration, "proxyd", "0", "", arguments, environ)


def test_endpoints_as_addresses_or_urls() -> None:
    configuration = given("--endpoints", "n1:2379, http://n2:2379/,[::1]:2379")
    assert configuration.endpoints == ("n1:2379", "n2:2379", "[::1]:2379")
    assert configuration.listen_addr == "127.0.0.1:2379"


def test_endpoints_from_the_environment() -> None:
    assert given(PROXYD_ENDPOINTS="n1:2379").endpoints == ("n1:2379",)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--endpoints is missing"),
        (["--endpoints", "n1"], "--endpoints must be HOST:PORT"),
        (["--endpoints", "https://n1:2379"], "https is not supported yet"),
        (["--endpoints", "n1:1,n1:1"], "--endpoints names n1:1 twice"),
        (["--endpoints", "n1:1", "--listen-addr", "n1:1"], "a proxyd cannot be its own endpoint"),
        (["--endpoints", "n1:1", "--listen-addr", "n1"], "--listen-addr must be HOST:PORT"),
        (["--endpoints", "n1:1", "--endpoint", "n2:1"], "unknown flag --endpoint"),
        (
            ["--endpoints", ",".join(f"n:{port}" for port in range(1, MAX_ENDPOINTS + 2))],
            f"at most {MAX_ENDPOINTS} are watched",
        ),
    ],
)
def test_what_is_wrong_is_said(arguments: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        given(*arguments)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)

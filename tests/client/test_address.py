"""Addresses: what is accepted on either side, what is this machine, and whose proxy leads elsewhere."""

import re
from collections.abc import Callable

import pytest

import handgrad
from handgrad.client.address import is_this_machine, proxy_variable, split_address
from handgrad.core.errors import InvalidInputError
from handgrad.server import settings

ACCEPTED = {
    "127.0.0.1:50051": ("127.0.0.1", 50051),
    "localhost:1": ("localhost", 1),
    "my_host.example-1.org:65535": ("my_host.example-1.org", 65535),
    "[::1]:50051": ("::1", 50051),
    "[fe80::1%eth0]:50051": ("fe80::1%eth0", 50051),
    "[::ffff:127.0.0.1]:50051": ("::ffff:127.0.0.1", 50051),
    # A host of that name, and not a file: gRPC alone would take it for a socket's.
    "unix:50051": ("unix", 50051),
}
REFUSED = {
    "": "with a port",
    "127.0.0.1": "with a port",
    "127.0.0.1:": "with a port",
    ":50051": "with a port",
    "50051": "with a port",
    "127.0.0.1:65536": "with a port",
    "127.0.0.1:-1": "with a port",
    "127.0.0.1:port": "with a port",
    "127.0.0.1:5e4": "with a port",
    "127.0.0.1:\u0665\u0660": "with a port",
    "127.0.0.1:50051/": "with a port",
    "127.0.0.1:50051/path": "with a port",
    "user@127.0.0.1:50051": "with a port",
    " 127.0.0.1:50051": "with a port",
    "127.0.0.1:50051\n": "with a port",
    "my host:50051": "with a port",
    "h\u00f6st:50051": "with a port",
    "ipv4:127.0.0.1:50051": "with a port",
    "unix:/run/handgrad.sock": "with a port",
    "[127.0.0.1]:50051": "with a port",
    "[localhost]:50051": "with a port",
    "[::1:50051": "with a port",
    "[]:50051": "with a port",
    "http://127.0.0.1:50051": "without http://",
    "https://127.0.0.1:50051/": "without https://",
    "grpc://[::1]:50051": "without grpc://",
    "dns:///localhost:50051": "without dns://",
    "unix:///run/handgrad.sock": "without unix://",
    "::1": "an IPv6 address in brackets",
    "::1:50051": "an IPv6 address in brackets",
    "fe80::1%eth0:50051": "an IPv6 address in brackets",
}
SIDES: dict[str, Callable[[str], tuple[str, int]]] = {
    "client": split_address,
    "server": lambda address: settings.split_address(address, "address"),
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("address", ACCEPTED)
def test_host_and_port_are_accepted(side: str, address: str) -> None:
    assert SIDES[side](address) == ACCEPTED[address]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("address", REFUSED)
def test_anything_else_is_refused_and_told(side: str, address: str) -> None:
    told = f"HOST:PORT, {REFUSED[address]}"
    with pytest.raises((handgrad.InvalidArgumentError, InvalidInputError), match=re.escape(told)) as raised:
        SIDES[side](address)
    assert vars(raised.value)["field"] == "address"
    assert str(raised.value).endswith(f"got {address!r}")


@pytest.mark.parametrize("side", SIDES)
def test_port_0_is_for_those_who_listen(side: str) -> None:
    if side == "server":
        assert SIDES[side]("127.0.0.1:0") == ("127.0.0.1", 0)
    else:
        with pytest.raises(handgrad.InvalidArgumentError, match="with a port from 1 to 65535"):
            SIDES[side]("127.0.0.1:0")


@pytest.mark.parametrize("address", ["http://127.0.0.1:50051", "127.0.0.1", "::1:50051", ""])
def test_a_client_is_told_before_it_connects(address: str) -> None:
    with pytest.raises(handgrad.InvalidArgumentError, match="address: HOST:PORT") as raised:
        handgrad.connect(address)
    assert raised.value.field == "address"


LOOPBACK = (
    *("localhost", "127.0.0.1", "127.255.255.254", "::1", "0:0:0:0:0:0:0:1"),
    *("::ffff:127.0.0.1", "::ffff:7f00:1"),
)
UNSPECIFIED = ("0.0.0.0", "::", "::ffff:0.0.0.0")  # noqa: S104 - to call, not to bind
ELSEWHERE = (
    # Names: whoever owns the domain says where they lead.
    *("127.example.com", "localhost.evil.com", "127.0.0.1.nip.io", "evil.localhost", "127.0.0.1.", "localhost."),
    *("LOCALHOST", "localhost4", "ip6-localhost", "loopback", "::1.evil.com", "127.evil", "127."),
    # What some resolvers take for an IP address.
    *("127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "127.0.0.01", "017700000001", "0"),
    *("10.0.0.1", "192.0.2.1", "126.255.255.255", "128.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "::2", "fe80::1", ""),
)


@pytest.mark.parametrize("host", [*LOOPBACK, *UNSPECIFIED, *ELSEWHERE])
def test_loopback_is_an_ip_address_that_is_or_localhost(host: str) -> None:
    # Who listens at the unspecified address is reached from everywhere; who calls it reaches this machine.
    assert settings.is_loopback(host) == (host in LOOPBACK)
    assert is_this_machine(host) == (host in LOOPBACK or host in UNSPECIFIED)


@pytest.mark.parametrize("host", ["127.example.com", "127.0.0.1.nip.io", "localhost.evil.com", "127.1", "2130706433"])
def test_a_token_stays_here_without_tls(host: str) -> None:
    with pytest.raises(handgrad.InvalidArgumentError, match="not sent there without TLS") as raised:
        handgrad.connect(f"{host}:50051", token="secret")
    assert raised.value.field == "token"


@pytest.mark.parametrize("token", ["two words", "line\n", "\u00fc", "\udce4", "\x1b[31m", "\x00"])
def test_a_token_that_no_call_can_carry_is_told_without_it(token: str) -> None:
    with pytest.raises(handgrad.InvalidArgumentError, match="token: ASCII letters") as raised:
        handgrad.connect("127.0.0.1:1", token=token)
    assert token not in str(raised.value)


PROXY = "http://127.0.0.1:9"


@pytest.mark.parametrize(
    ("variables", "host", "found"),
    [
        ({}, "example.org", ""),
        ({"http_proxy": PROXY}, "example.org", "http_proxy"),
        ({"http_proxy": PROXY, "https_proxy": PROXY}, "example.org", "https_proxy"),
        ({"http_proxy": PROXY, "https_proxy": PROXY, "grpc_proxy": PROXY}, "example.org", "grpc_proxy"),
        # gRPC takes no proxy that speaks TLS itself, and no variable in capitals.
        ({"https_proxy": "https://127.0.0.1:9"}, "example.org", ""),
        ({"http_proxy": ""}, "example.org", ""),
        ({"HTTP_PROXY": PROXY}, "example.org", ""),
        ({"http_proxy": PROXY, "no_proxy": "other.org, .example.org"}, "a.EXAMPLE.org", ""),
        ({"http_proxy": PROXY, "no_proxy": "other.org"}, "example.org", "http_proxy"),
        ({"http_proxy": PROXY, "no_proxy": "192.0.2.0/24"}, "192.0.2.7", ""),
        ({"http_proxy": PROXY, "no_grpc_proxy": "example.org", "no_proxy": "x"}, "example.org", ""),
        *(({"http_proxy": PROXY}, host, "") for host in ("127.0.0.1", "localhost", "::1", *UNSPECIFIED)),
        ({"http_proxy": PROXY}, "127.1", "http_proxy"),
    ],
)
def test_whose_proxy(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], host: str, found: str) -> None:
    no_proxies(monkeypatch)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_variable(host) == found


def test_the_proxy_is_named_where_it_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    no_proxies(monkeypatch)
    monkeypatch.setenv("http_proxy", PROXY)
    with pytest.raises(
        handgrad.UnavailableError,
        match=r"at server\.invalid:50051 does not answer by the proxy of \$http_proxy \(no_proxy=server\.invalid goes",
    ):
        handgrad.connect("server.invalid:50051")


def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)

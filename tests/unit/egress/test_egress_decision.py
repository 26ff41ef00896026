"""Which destinations are open: the closed list in every spelling, and who beats whom."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll.egress.addresses import CLOSED_NETWORKS, is_within, parse_address
from atoll.egress.decision import ByName, Rules
from atoll.egress.first_bytes import Said
from atoll.model import NetworkPolicy

INTERNET = Rules(NetworkPolicy.internet())
V4 = st.ip_addresses(v=4)
V6 = st.ip_addresses(v=6)
CLOSED_V4 = [n for n in CLOSED_NETWORKS if n.version == 4]


def closed(*allow_out: str, deny_out: tuple[str, ...] = ()) -> Rules:
    return Rules(NetworkPolicy(allow_internet_access=False, allow_out=allow_out, deny_out=deny_out))


def is_open(rules: Rules, address: str, *, by_name: bool = False, of_host: bool = False) -> bool:
    return rules.about_address(parse_address(address), by_name=by_name, of_host=of_host).open


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "0.1.2.3",
        "10.0.0.1",
        "100.64.0.1",
        "100.127.255.255",
        "169.254.0.1",
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "169.254.169.253",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "192.0.0.192",
        "192.0.2.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
        "100.100.100.200",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:7f00:1",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:0:7f00:1::1",
        "2600::5efe:10.0.0.1",
        "2600::200:5efe:127.0.0.1",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "fc00::1",
        "fe80::1",
        "fec0::1",
        "ff02::1",
        "100::1",
        "2001:db8::1",
        "3fff::1",
        "5f00::1",
        "4000::1",
        "8000::1",
        "1000::1",
    ],
)
def test_special_addresses_are_closed_to_all(address: str) -> None:
    assert not is_open(INTERNET, address)
    assert not is_open(Rules(NetworkPolicy(allow_out=("0.0.0.0/0", "::/0"))), address)
    assert not is_open(closed("a.example"), address, by_name=True)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "8.8.8.8", "2606:4700::1111", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"]
)
def test_public_addresses_are_open_to_the_internet(address: str) -> None:
    assert is_open(INTERNET, address)


@given(V4)
def test_a_mapped_address_is_as_open_as_the_plain_one(address: ipaddress.IPv4Address) -> None:
    mapped = f"::ffff:{address}"

    assert is_open(INTERNET, mapped) == is_open(INTERNET, str(address))


@given(V4)
def test_a_translated_address_is_as_open_as_the_plain_one(address: ipaddress.IPv4Address) -> None:
    assert is_open(INTERNET, f"64:ff9b::{address}") == is_open(INTERNET, str(address))


@given(st.sampled_from(CLOSED_V4), st.integers(min_value=0), st.booleans())
def test_no_address_of_a_closed_network_opens_unless_named(
    network: ipaddress.IPv4Network, offset: int, by_name: bool
) -> None:
    address = network[offset % network.num_addresses]

    assert not INTERNET.about_address(address, by_name=by_name).open


@given(st.one_of(V4, V6), st.one_of(V4, V6), st.integers(0, 128))
def test_whatever_opens_a_closed_address_lies_within_what_closes_it(
    address: ipaddress.IPv4Address, other: ipaddress.IPv4Address, length: int
) -> None:
    entry = ipaddress.ip_network(f"{other}/{length % (other.max_prefixlen + 1)}", strict=False)
    rules = closed(str(entry))

    if rules.about_address(address).open:
        plain = parse_address(str(address))
        spelled = ipaddress.ip_network(rules.policy.allow_out[0])
        for network in CLOSED_NETWORKS:
            assert plain not in network or is_within(spelled, network)


@given(st.one_of(V4, V6))
def test_nothing_opens_a_closed_policy(address: ipaddress.IPv4Address) -> None:
    assert not closed().about_address(address).open


@given(st.one_of(V4, V6))
def test_a_host_address_opens_only_when_named_alone(address: ipaddress.IPv4Address) -> None:
    assert not INTERNET.about_address(address, of_host=True).open
    assert not closed("0.0.0.0/0", "::/0").about_address(address, of_host=True).open


def test_naming_an_address_opens_it() -> None:
    rules = closed("127.0.0.1", "169.254.169.254", "10.1.0.0/16", "fd12::/16")

    assert is_open(rules, "127.0.0.1")
    assert is_open(rules, "127.0.0.1", of_host=True)
    assert is_open(rules, "::ffff:127.0.0.1")
    assert is_open(rules, "169.254.169.254")
    assert is_open(rules, "10.1.2.3")
    assert is_open(rules, "fd12::1")
    assert not is_open(rules, "127.0.0.2")
    assert not is_open(rules, "10.2.0.1")
    assert not is_open(rules, "10.1.2.3", of_host=True)


def test_a_network_does_not_open_the_metadata_address_in_it() -> None:
    rules = closed("169.254.0.0/16", "fd00::/8")

    assert is_open(rules, "169.254.1.1")
    assert not is_open(rules, "169.254.169.254")
    assert not is_open(rules, "fd00:ec2::254")


def test_allow_beats_deny_which_beats_the_default() -> None:
    rules = Rules(NetworkPolicy(allow_out=("1.1.1.1",), deny_out=("1.1.1.0/24",)))

    assert is_open(rules, "1.1.1.1")
    assert not is_open(rules, "1.1.1.2")
    assert not is_open(rules, "64:ff9b::1.1.1.2")
    assert is_open(rules, "1.1.2.1")


def test_denying_everything_denies_ipv6_too() -> None:
    assert not is_open(Rules(NetworkPolicy(deny_out=("0.0.0.0/0",))), "2606:4700::1111")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("example.com", ByName.OPEN),
        ("www.example.com", ByName.CLOSED),
        ("a.sub.example", ByName.OPEN),
        ("a.b.sub.example", ByName.OPEN),
        ("sub.example", ByName.CLOSED),
        ("evil-sub.example", ByName.CLOSED),
        ("evilsub.example", ByName.CLOSED),
        ("example.com.evil.test", ByName.CLOSED),
        ("com", ByName.CLOSED),
    ],
)
def test_a_domain_is_itself_and_a_star_is_what_lies_below(name: str, expected: ByName) -> None:
    assert closed("example.com", "*.sub.example").about_name(name) is expected


def test_names_of_the_host_and_of_metadata_are_closed_unless_named() -> None:
    for name in ("localhost", "x.localhost", "metadata.google.internal"):
        assert INTERNET.about_name(name) is ByName.CLOSED
    assert closed("metadata.google.internal").about_name("metadata.google.internal") is ByName.OPEN


def test_an_unnamed_name_is_closed_where_only_networks_are_open() -> None:
    assert closed("1.1.1.0/24").about_name("tunnel.evil.test") is ByName.CLOSED


def test_a_denied_name_is_closed_and_others_depend_on_their_address() -> None:
    rules = Rules(NetworkPolicy(deny_out=("*.evil.test",)))

    assert rules.about_name("a.evil.test") is ByName.CLOSED
    assert rules.about_name("good.test") is ByName.ADDRESS_DECIDES


def test_a_client_may_say_only_what_is_open() -> None:
    rules = closed("a.example", "b.example")

    def said(host: str) -> bool:
        return rules.about_said(Said("tls", host), "a.example", by_name=True).open

    assert said("a.example")
    assert said("b.example")
    assert not said("evil.test")
    address = Said("http", parse_address("10.0.0.1"))
    assert not rules.about_said(address, "a.example", by_name=True).open


def test_the_exact_header_rule_goes_first() -> None:
    policy = NetworkPolicy.of(
        {
            "rules": [
                {"host": "*.example", "headers": {"X": "star"}},
                {"host": "a.example", "headers": {"X": "exact"}},
            ]
        }
    )
    assert policy is not None
    rules = Rules(policy)

    found = [rules.header_rule(name) for name in ("a.example", "b.example", "example")]

    assert [rule and rule.headers["X"] for rule in found] == ["exact", "star", None]

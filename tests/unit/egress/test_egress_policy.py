"""What a network policy may say, and what is refused with the field's name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from atoll.model import EgressProxy, HeaderRule, InvalidArgument, NetworkPolicy


@pytest.mark.parametrize("value", [None, False, "none"])
def test_no_network_is_no_policy(value: Any) -> None:
    assert NetworkPolicy.of(value) is None


@pytest.mark.parametrize("value", [True, "internet", {}])
def test_the_internet_is_the_default_policy(value: Any) -> None:
    assert NetworkPolicy.of(value) == NetworkPolicy.internet()


def test_a_policy_survives_json() -> None:
    policy = NetworkPolicy(
        allow_internet_access=False,
        allow_out=("10.0.0.0/8", "1.2.3.4", "Example.com.", "*.pypi.org", "fd00::1"),
        deny_out=("0.0.0.0/0", "evil.example"),
        dns_servers=("9.9.9.9", "[2620:fe::fe]:5353"),
        egress_proxy=EgressProxy("proxy.example:1080", "me", "secret", tls=True),
        https_ports=(8443,),
        rules=(HeaderRule("api.example", {"Authorization": "Bearer x"}, {"PLACEHOLDER": "y"}),),
        bandwidth=1_000_000,
        max_connections=10,
    )

    assert NetworkPolicy.of(json.loads(json.dumps(policy.to_mapping()))) == policy


def test_entries_are_kept_in_one_spelling() -> None:
    policy = NetworkPolicy(
        allow_internet_access=False,
        allow_out=("1.2.3.4", "::ffff:10.0.0.1", "::ffff:10.0.0.0/104", "EXAMPLE.com.", "1.2.3.4"),
    )

    assert policy.allow_out == ("1.2.3.4/32", "10.0.0.1/32", "10.0.0.0/8", "example.com")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("allow_internet_access", 1),
        ("allow_out", "example.com"),
        ("allow_out", ["1.2.3.4/8"]),
        ("allow_out", ["1.2.3"]),
        ("allow_out", ["0x7f000001"]),
        ("allow_out", ["fe80::1%eth0"]),
        ("allow_out", ["a\x00.example"]),
        ("allow_out", ["bücher.example"]),
        ("allow_out", ["*.*.example"]),
        ("allow_out", ["ex*mple.com"]),
        ("allow_out", ["*"]),
        ("allow_out", [""]),
        ("allow_out", ["a..b"]),
        ("allow_out", [7]),
        ("deny_out", ["-a.example"]),
        ("deny_out", ["1.2.3.4"] * 1001),
        ("dns_servers", ["dns.example"]),
        ("dns_servers", ["1.1.1.1:0"]),
        ("egress_proxy", {"address": "proxy"}),
        ("egress_proxy", {"adress": "proxy:1"}),
        ("egress_proxy", {}),
        ("egress_proxy", {"address": "proxy:1", "username": "me"}),
        ("https_ports", [0]),
        ("https_ports", [True]),
        ("rules", [{"host": "a.example", "headers": {"Host": "b"}}]),
        ("rules", [{"host": "a.example", "headers": {"X": "a\r\nY: b"}}]),
        ("rules", [{"host": "a.example", "headers": {"X Y": "a"}}]),
        ("rules", [{"host": "a.example", "placeholders": {"short": "a"}}]),
        ("rules", [{"headers": {}}]),
        ("bandwidth", 0),
        ("bandwidth", 1.5),
        ("max_connections", None),
        ("max_connections", -1),
    ],
)
def test_a_bad_field_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(InvalidArgument, match=field):
        NetworkPolicy.of({field: value})


def test_a_field_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="allow_in"):
        NetworkPolicy.of({"allow_in": []})


def test_names_need_all_else_closed() -> None:
    with pytest.raises(InvalidArgument, match="everything else is open"):
        NetworkPolicy(allow_out=("example.com",))

    assert NetworkPolicy(allow_out=("example.com",), deny_out=("0.0.0.0/0",))
    assert NetworkPolicy(allow_internet_access=False, allow_out=("example.com",))


def test_secrets_are_in_no_representation() -> None:
    policy = NetworkPolicy(
        egress_proxy=EgressProxy("p.example:1", "me", "hunter2-proxy"),
        rules=(HeaderRule("a.example", {"X": "hunter2-header"}, {"PLACEHOLDER": "hunter2-p"}),),
    )

    assert "hunter2" not in repr(policy)


def test_a_refused_secret_is_not_repeated() -> None:
    with pytest.raises(InvalidArgument) as caught:
        HeaderRule("a.example", {"X": "hunter2\n"})

    assert "hunter2" not in str(caught.value)

"""From inside of a sandbox, through its walls and the proxy, to real servers of the host."""

from __future__ import annotations

import anyio
import pytest
from network_kit import Ground, kill_proxy, reported

from atoll.engine import Engine
from atoll.model import CommandResult, InvalidArgument, NetworkPolicy, NetworkUnavailable

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

FETCH = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read())"


def curl(address: str) -> str:
    return f"curl -sS -m 5 http://{address}/"


async def test_curl_reaches_a_server_by_its_name(
    ground: Ground, policy: NetworkPolicy, page: int
) -> None:
    async with await ground.create(network=policy) as sandbox:
        result = await sandbox.commands.run(curl(f"shop.test:{page}"))
        assert result.stdout == f"page of shop.test:{page}", result.stderr
        report = await reported(sandbox, lambda report: bool(report.log) and not report.open)
        assert (report.opened, report.refused) == (1, 0)
        assert report.bytes_in > 0 and report.bytes_out > 0
        assert [(r.target, r.port) for r in report.log] == [("shop.test", page)]
    assert (await sandbox.network.report()).opened == 1, "the last report stays"


async def test_python_reaches_a_server_by_its_name_also_as_root_and_in_a_cell(
    ground: Ground, policy: NetworkPolicy, page: int
) -> None:
    address = f"http://shop.test:{page}/"
    expected = f"b'page of shop.test:{page}'"
    async with await ground.create(network=policy) as sandbox:
        for user in ("user", "root"):
            command = ["/usr/bin/python3", "-I", "-c", FETCH, address]
            result = await sandbox.commands.run(command, user=user)
            assert result.stdout.strip() == expected, result.stderr
        cell = await sandbox.run_code(f"import sys; sys.argv = ['', {address!r}]\n{FETCH}")
        assert "".join(cell.logs.stdout).strip() == expected, cell.error


async def test_what_the_policy_does_not_name_is_not_reached(
    ground: Ground, policy: NetworkPolicy, page: int
) -> None:
    async with await ground.create(network=policy) as sandbox:
        # One after the other: each is refused at once, and none is answered.
        for address in (
            f"other.test:{page}",
            f"198.51.100.7:{page}",
            "169.254.169.254",
            "10.0.0.2",
        ):
            result = await sandbox.commands.run(curl(address))
            assert not result.ok and result.stdout == "", address
        direct = await sandbox.commands.run(curl("192.0.2.1:1"))
        assert not direct.ok and "page" not in direct.stdout


async def test_the_internet_is_not_the_hosts_loopback(
    ground: Ground, names: str, page: int
) -> None:
    internet = NetworkPolicy(dns_servers=(names,))
    async with await ground.create(network=internet) as sandbox:
        result = await sandbox.commands.run(curl(f"shop.test:{page}"))
        assert not result.ok and result.stdout == "", "a name may not lead where nothing is opened"


async def test_a_new_policy_cuts_what_it_forbids(
    ground: Ground, policy: NetworkPolicy, page: int
) -> None:
    hold = (
        "import socket; s = socket.create_connection(('shop.test', PORT), 5); "
        "s.settimeout(20); print('open', flush=True)\n"
        "try: print(s.recv(1))\n"
        "except ConnectionError: print('cut')"
    ).replace("PORT", str(page))
    async with await ground.create(network=policy) as sandbox:
        handle = await sandbox.commands.start(["/usr/bin/python3", "-I", "-c", hold])
        with anyio.fail_after(20):
            async for _ in handle:
                break
            # connect(2) inside succeeds at the listener: the proxy dials after that.
            await reported(sandbox, lambda report: report.open == 1)
            assert await sandbox.network.update(False) == 1
            result = await handle.wait()
        assert result.stdout in ("open\ncut\n", "open\nb''\n"), result.stderr
        assert not (await sandbox.commands.run(curl(f"shop.test:{page}"))).ok
        await sandbox.network.update(policy)
        assert (await sandbox.commands.run(curl(f"shop.test:{page}"))).ok


async def test_without_a_network_there_is_none_until_it_is_given(
    ground: Ground, policy: NetworkPolicy, page: int
) -> None:
    async with await ground.create() as sandbox:
        assert not (await sandbox.commands.run(curl(f"shop.test:{page}"))).ok
        assert (await sandbox.network.report()).opened == 0
        await sandbox.network.update(policy)
        assert (await sandbox.commands.run(curl(f"shop.test:{page}"))).ok


async def test_a_server_inside_is_reached_from_outside(ground: Ground) -> None:
    serve = (
        "import socket; s = socket.create_server(('', 8080)); print('up', flush=True); "
        "c, peer = s.accept(); c.sendall(peer[0].encode())"
    )
    async with await ground.create() as sandbox:
        handle = await sandbox.commands.start(["/usr/bin/python3", "-I", "-c", serve])
        with anyio.fail_after(20):
            async for _ in handle:
                break
            with await sandbox.connect(8080) as connection:
                await anyio.wait_readable(connection)
                assert connection.recv(100) == b"127.0.0.1"
        for port in (0, 65536, "80", True):
            with pytest.raises(InvalidArgument, match="port"):
                await sandbox.connect(port)  # type: ignore[arg-type]


async def test_one_sandbox_is_not_reached_from_another(
    ground: Ground, policy: NetworkPolicy
) -> None:
    serve = "cd /tmp && exec /usr/bin/python3 -m http.server 8080"
    async with (
        await ground.create(network=policy) as first,
        await ground.create(network=policy) as second,
    ):
        await first.commands.start(serve)
        up = await first.commands.run("curl -sS --retry 20 --retry-connrefused 127.0.0.1:8080")
        assert up.ok, up.stderr
        for address in ("127.0.0.1:8080", "10.0.0.2:8080", "192.0.2.1:8080", "0.0.0.0:8080"):
            assert not (await second.commands.run(curl(address))).ok, address


async def test_many_commands_share_the_network(
    ground: Ground, policy: NetworkPolicy, page: int
) -> None:
    results: list[CommandResult] = []

    async def one() -> None:
        results.append(await sandbox.commands.run(curl(f"shop.test:{page}")))

    sandbox = await ground.create(network=policy)
    async with sandbox, anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(one)
    assert [r.stdout for r in results] == [f"page of shop.test:{page}"] * 20


async def test_a_proxy_that_was_killed_is_followed_by_another(
    ground: Ground, policy: NetworkPolicy, page: int
) -> None:
    async with await ground.create(network=policy) as sandbox:
        await kill_proxy()
        assert not (await sandbox.commands.run(curl(f"shop.test:{page}"))).ok, "nothing leaves"
        async with await ground.create(network=policy) as second:
            for each in (sandbox, second):
                assert (await each.commands.run(curl(f"shop.test:{page}"))).ok


async def test_a_bad_policy_makes_no_sandbox(ground: Ground) -> None:
    before = [info.id for info in ground.engine.list()]
    for network in ("some", {"allow_out": ["not a name!"]}, {"no_such_field": 1}, 3):
        with pytest.raises((InvalidArgument, NetworkUnavailable)):
            await ground.create(network=network)  # type: ignore[arg-type]
    assert [info.id for info in ground.engine.list()] == before


async def test_a_spare_has_no_network_before_it_is_claimed(
    ground: Ground, policy: NetworkPolicy, page: int
) -> None:
    async with Engine(data_dir=ground.engine.data_dir, pool=1) as pooled:
        await pooled.warm("base", ground.limits)
        async with await pooled.create("base", limits=ground.limits) as spare:
            assert not (await spare.commands.run(curl("198.51.100.7"))).ok
            routes = await spare.commands.run("cat /proc/net/route | wc -l")
            assert routes.stdout.strip() == "1", "the heading and no route"
        await pooled.warm("base", ground.limits)
        async with await pooled.create("base", limits=ground.limits, network=policy) as claimed:
            assert (await claimed.commands.run(curl(f"shop.test:{page}"))).ok

"""Services as processes: they heed signals, and an operator can ask them how they are."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress

import pytest

from cdn.daemon import (
    COMMAND_BYTES_MAX,
    HttpListener,
    ask_status,
    operator_application,
    run_until_stopped,
    send_command,
)
from cdn.errors import StorageError, TransportError, UnreachableError, UsageError
from cdn.telemetry import install_sink


class NotingService:
    """Notes what is asked of it; a reload ends it."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    async def start(self) -> Iterable[str]:
        self.noted.append("start")
        return ["serving here", "status there"]

    async def reload(self) -> None:
        self.noted.append("reload")
        os.kill(os.getpid(), signal.SIGTERM)

    async def stop(self) -> None:
        self.noted.append("stop")

    def is_healthy(self) -> bool:
        return True


class FailingService(NotingService):
    """Cannot start."""

    async def start(self) -> Iterable[str]:
        raise UsageError("the address is taken")


def test_a_service_reloads_on_hangup_and_stops_when_terminated() -> None:
    service, said = NotingService(), []

    def ready(sentence: str) -> None:
        said.append(sentence)
        if len(said) == 2:
            os.kill(os.getpid(), signal.SIGHUP)

    run_until_stopped(lambda: service, ready)
    assert said == ["serving here", "status there"]
    assert service.noted == ["start", "reload", "stop"]


def test_a_service_that_cannot_start_says_why() -> None:
    with pytest.raises(UsageError, match="taken"):
        run_until_stopped(FailingService, lambda _: None)


def test_a_service_that_cannot_be_announced_is_stopped() -> None:
    service = NotingService()

    def refuse(_sentence: str) -> None:
        raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError):
        run_until_stopped(lambda: service, refuse)
    assert service.noted == ["start", "stop"]


class StumblingService(NotingService):
    """Crashes in its first reload."""

    async def reload(self) -> None:
        if "reload" in self.noted:
            await super().reload()
            return
        self.noted.append("reload")
        os.kill(os.getpid(), signal.SIGHUP)
        raise KeyError("a mistake of ours")


def test_a_reload_that_crashes_is_told_and_does_not_end_later_ones() -> None:
    service, told = StumblingService(), []
    install_sink(lambda level, name, fields: told.append((level, name, fields["error"])))
    run_until_stopped(lambda: service, lambda _: os.kill(os.getpid(), signal.SIGHUP))
    assert service.noted.count("reload") == 2
    assert service.noted[-1] == "stop"
    assert told == [("error", "daemon.reload.crashed", "KeyError: 'a mistake of ours'")]


# ------------------------------------------------------------------------------------------------- systemd


class Systemd:
    """What systemd would hear, on a socket as it opens one."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def heard(self) -> list[dict[str, str]]:
        messages = []
        with suppress(BlockingIOError):
            while True:
                text = self._socket.recv(4096).decode()
                messages.append(dict(line.split("=", 1) for line in text.split("\n")))
        return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path, monkeypatch) -> Iterator[Systemd]:
    address = str(tmp_path / "notify") if request.param == "path" else f"\0stratocast-test-{os.getpid()}"
    listening = Systemd(address)
    monkeypatch.setenv("NOTIFY_SOCKET", address.replace("\0", "@"))
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    yield listening
    listening.close()


def test_systemd_is_told_of_start_life_reload_and_stop(systemd: Systemd) -> None:
    run_until_stopped(NotingService, lambda said: said == "status there" and os.kill(os.getpid(), signal.SIGHUP))
    ready, *others, stopping = systemd.heard()
    assert ready == {"READY": "1", "STATUS": "serving here; status there"}
    assert {"WATCHDOG": "1"} in others
    reloading = next(each for each in others if "RELOADING" in each)
    assert int(reloading["MONOTONIC_USEC"]) > 0
    assert {"READY": "1"} in others
    assert stopping == {"STOPPING": "1"}


class SickService(NotingService):
    """Serves, but not well."""

    def is_healthy(self) -> bool:
        os.kill(os.getpid(), signal.SIGTERM)
        return False


def test_the_watchdog_is_not_fed_for_a_service_that_is_not_well(systemd: Systemd) -> None:
    run_until_stopped(SickService, lambda _: None)
    assert not any("WATCHDOG" in each for each in systemd.heard())


class ReplacedService(NotingService):
    """Has a successor after the second try."""

    def __init__(self) -> None:
        super().__init__()
        self.successor: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def upgrade(self) -> None:
        self.noted.append("upgrade")
        if self.noted.count("upgrade") == 1:
            os.kill(os.getpid(), signal.SIGUSR2)
            raise UsageError("the successor did not start")
        self.successor.set_result(4711)


def test_a_service_with_a_successor_names_it_and_stops(systemd: Systemd) -> None:
    service: list[ReplacedService] = []

    def make() -> ReplacedService:
        service.append(ReplacedService())
        return service[0]

    run_until_stopped(make, lambda said: said == "serving here" and os.kill(os.getpid(), signal.SIGUSR2))
    assert service[0].noted == ["start", "upgrade", "upgrade", "stop"]
    assert systemd.heard()[-1] == {"MAINPID": "4711", "READY": "1"}


# ------------------------------------------------------------------------------------------------- the operator's side


async def forget(order: dict[str, object]) -> dict[str, object]:
    if order == {"what": "the disk"}:
        raise StorageError("the disk is gone")
    if "what" not in order:
        raise UsageError("say what to forget")
    return {"forgotten": order["what"]}


@pytest.fixture
async def listener():
    state = {"ready": True}
    application = operator_application(
        status=lambda: {"zones": ["one"]},
        metrics=lambda: b"up 1\n",
        is_ready=lambda: state["ready"],
        why_not_ready=lambda: "it rests",
        commands={"forget": forget},
    )
    listener = HttpListener(application)
    await listener.start("127.0.0.1", 0)
    listener.state = state  # type: ignore[attr-defined]
    yield listener
    await listener.stop()


def url_of(listener: HttpListener) -> str:
    return "http://{}:{}".format(*listener.address)


async def get(listener: HttpListener, path: str) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection(*listener.address)
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(answer.split()[1]), answer.partition(b"\r\n\r\n")[2]


async def test_the_operator_sees_health_readiness_and_metrics(listener: HttpListener) -> None:
    assert await get(listener, "/healthz") == (200, b"ok\n")
    assert await get(listener, "/metrics") == (200, b"up 1\n")
    assert await get(listener, "/readyz") == (200, b"ready\n")
    listener.state["ready"] = False  # type: ignore[attr-defined]
    assert await get(listener, "/readyz") == (503, b"it rests\n")
    assert await get(listener, "/healthz") == (200, b"ok\n")


@pytest.mark.parametrize("raw", [b"GET / HTTP/9.9", b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000, b"\0\1"])
async def test_a_request_that_is_no_http_is_refused_without_a_traceback(listener: HttpListener, caplog, raw) -> None:
    reader, writer = await asyncio.open_connection(*listener.address)
    writer.write(raw + b"\r\n\r\n")
    assert b" 400 " in await reader.readline()
    writer.transport.abort()
    assert await get(listener, "/healthz") == (200, b"ok\n")
    assert [record for record in caplog.records if record.exc_info] == []


async def test_a_status_is_asked_for(listener: HttpListener) -> None:
    asked = await asyncio.to_thread(ask_status, url_of(listener) + "/", what="a thing", example="http://x", has="zones")
    assert asked == {"zones": ["one"]}


async def test_another_kind_of_service_is_told_from_the_right_one(listener: HttpListener) -> None:
    with pytest.raises(TransportError, match="not the operator's listener of a thing"):
        await asyncio.to_thread(ask_status, url_of(listener), what="a thing", example="http://x", has="upstreams")


async def test_an_address_that_is_taken_is_named(listener: HttpListener) -> None:
    other = HttpListener(operator_application(status=dict, metrics=bytes, is_ready=lambda: True))
    with pytest.raises(UsageError, match=f"127.0.0.1 port {listener.address[1]}"):
        await other.start(*listener.address)


def test_a_service_that_is_not_there_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UnreachableError, match="is it running"):
        ask_status(f"http://127.0.0.1:{port}", what="a thing", example="http://x", has="zones")


def test_what_is_no_url_is_refused() -> None:
    with pytest.raises(UsageError, match="no URL such as http://x"):
        ask_status("127.0.0.1:1", what="a thing", example="http://x", has="zones")


# ---------------------------------------------------------------------------------------------------------- commands


async def command(listener: HttpListener, document: dict[str, object]) -> dict[str, object]:
    return await asyncio.to_thread(
        send_command, url_of(listener), "forget", document, what="a thing", example="http://x"
    )


async def posted(listener: HttpListener, body: bytes = b'{"what": 1}', **fields: str) -> int:
    """The status of the answer to a command sent with these fields."""
    given = {"Host": "{}:{}".format(*listener.address), "Content-Type": "application/json"}
    given |= {name.replace("_", "-"): value for name, value in fields.items()}
    lines = [f"{name}: {value}" for name, value in given.items()]
    reader, writer = await asyncio.open_connection(*listener.address)
    head = "\r\n".join(["POST /forget HTTP/1.1", *lines, f"Content-Length: {len(body)}", "Connection: close"])
    writer.write(head.encode() + b"\r\n\r\n" + body)
    answer = await reader.readuntil(b"\r\n")
    writer.transport.abort()
    return int(answer.split()[1])


async def test_a_command_is_carried_out(listener: HttpListener) -> None:
    assert await command(listener, {"what": "all"}) == {"forgotten": "all"}


async def test_what_is_wrong_with_an_order_is_told(listener: HttpListener) -> None:
    with pytest.raises(UsageError, match=r"^say what to forget$"):
        await command(listener, {})
    with pytest.raises(TransportError, match="the disk is gone"):
        await command(listener, {"what": "the disk"})


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]:9154", "localhost:1", "LOCALHOST."])
async def test_a_command_may_be_sent_to_any_address_of_the_machine(listener: HttpListener, host: str) -> None:
    assert await posted(listener, Host=host) == 200


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
        ({"Origin": "http://127.0.0.1"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-origin"}, 403),
        ({"Host": "attacker.example"}, 403),
        ({"Host": "attacker.example:9154"}, 403),
        ({"Host": "127.0.0.1.attacker.example"}, 403),
        ({"Host": ""}, 403),
    ],
)
async def test_a_web_page_gives_no_commands(listener: HttpListener, fields: dict[str, str], status: int) -> None:
    assert await posted(listener, **fields) == status


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"[]", 400), (b"{", 400), (b"\xff", 400), (b"[" * 9000, 400), (b" " * (COMMAND_BYTES_MAX + 1), 413)],
)
async def test_what_is_no_command_is_refused(listener: HttpListener, body: bytes, status: int) -> None:
    assert await posted(listener, body) == status

"""Sockets that listen: opened, shared, taken over from dead processes, handed over by systemd."""

import os
import socket
import stat

import pytest

from cdn.errors import UsageError
from edge.connection.listeners import ListeningSocket, close_listeners, open_listeners, systemd_listeners
from edge.settings.listen import ListenSettings, TlsSettings


@pytest.fixture
def opened():
    """Opens listeners, and closes them at the end."""
    everything = []

    def open_all(*addresses, **options):
        workers = open_listeners(ListenSettings(addresses, **options.pop("settings", {})), **options)
        everything.extend(each for worker in workers for each in worker)
        return workers

    yield open_all
    close_listeners(everything)


def takes_connections(sock):
    sock.setblocking(True)
    sock.settimeout(10)
    with socket.socket(sock.family) as client:
        client.connect(sock.getsockname())
        accepted, _ = sock.accept()
        accepted.close()
    return True


def test_every_kind_of_address_listens(opened, tmp_path):
    ((plain, six, unix),) = opened("127.0.0.1:0", "[::1]:0", f"unix:{tmp_path}/s")
    assert all(takes_connections(each.sock) for each in (plain, six, unix))
    assert plain.text == f"127.0.0.1:{plain.sock.getsockname()[1]}"
    assert six.text.startswith("[::1]:")
    assert unix.text == f"unix:{tmp_path}/s"


def test_ipv6_leaves_the_port_of_ipv4_free(opened):
    ((six,),) = opened("[::]:0")
    assert six.sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def test_each_worker_gets_a_socket_of_its_own_and_connections_spread(opened):
    workers = opened("127.0.0.1:0", count=3)
    sockets = [worker[0].sock for worker in workers]
    assert len({sock.getsockname() for sock in sockets}) == 1
    assert len({sock.fileno() for sock in sockets}) == 3
    clients = [socket.create_connection(sockets[0].getsockname()) for _ in range(60)]
    counts = [0, 0, 0]
    for index, sock in enumerate(sockets):
        while True:
            try:
                sock.accept()[0].close()
            except BlockingIOError:
                break
            counts[index] += 1
    for client in clients:
        client.close()
    assert sum(counts) == 60
    assert all(counts)


def test_workers_share_a_unix_socket(opened, tmp_path):
    first, second = opened(f"unix:{tmp_path}/s", count=2)
    assert first[0].sock is second[0].sock


@pytest.mark.parametrize("count", [1, 2])
def test_an_address_that_another_edge_has_is_refused_even_if_both_have_workers(opened, count):
    ((held,), *_) = opened("127.0.0.1:0", count=count)
    with pytest.raises(UsageError, match="cannot listen on 127"):
        opened(held.text, count=count)


def test_when_one_address_cannot_be_had_the_others_are_given_back(opened, tmp_path):
    (tmp_path / "s").write_text("no socket")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UsageError, match="no socket is there"):
        opened(f"127.0.0.1:{port}", f"unix:{tmp_path}/s")
    opened(f"127.0.0.1:{port}")


def test_the_mode_of_a_unix_socket_says_who_may_connect(opened, tmp_path):
    before = os.umask(0o077)
    try:
        opened(f"unix:{tmp_path}/s", settings={"unix_mode": "0666"})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o666


def test_the_socket_of_a_dead_edge_is_replaced_and_one_of_a_living_edge_refused(opened, tmp_path):
    ((dead,),) = opened(f"unix:{tmp_path}/s")
    with pytest.raises(UsageError, match="another process does"):
        opened(f"unix:{tmp_path}/s")
    assert takes_connections(dead.sock)
    dead.sock.close()
    assert (tmp_path / "s").exists()
    ((new,),) = opened(f"unix:{tmp_path}/s")
    assert takes_connections(new.sock)


def test_a_socket_in_a_folder_that_is_not_there_is_refused(opened, tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        opened(f"unix:{tmp_path}/no/s")


# ------------------------------------------------------------------------------------------------------- handed over


def test_sockets_of_a_predecessor_are_used_and_new_addresses_opened(opened, tmp_path):
    ((held,),) = opened("127.0.0.1:0")
    ((first, second),) = opened("127.0.0.1:0", f"unix:{tmp_path}/s", handed=[held])
    assert first.sock is held.sock
    assert takes_connections(second.sock)


def test_a_predecessor_with_other_numbers_of_workers_loses_no_socket(opened):
    held = [worker[0] for worker in opened("127.0.0.1:0", count=3)]
    ((*one,),) = opened("127.0.0.1:0", handed=held)
    assert {each.sock for each in one} == {each.sock for each in held}
    more = opened("127.0.0.1:0", count=4, handed=held)
    assert [len(worker) for worker in more] == [1, 1, 1, 1]
    assert {each.sock for worker in more for each in worker} == {each.sock for each in held}


@pytest.fixture
def handed(monkeypatch):
    """Gives listening sockets as systemd does."""
    import edge.connection.listeners as module

    made = []

    def hand(*names):
        pairs = []
        for name in names:
            sock = socket.create_server(("127.0.0.1", 0))
            made.append(sock)
            pairs.append((os.dup(sock.fileno()), name))
        monkeypatch.setattr(module, "handed_descriptors", lambda environment, pid: tuple(pairs))
        return made

    yield hand
    for sock in made:
        sock.close()


def test_sockets_of_systemd_are_found_by_name(opened, handed):
    one, two, other = handed("http", "http", "https")
    settings = ListenSettings(("systemd:http",), tls=(TlsSettings("systemd:https", "c", "k"),))
    listeners = systemd_listeners(settings, {}, 1)
    ((*all_of_them,),) = open_listeners(settings, handed=listeners)
    assert [each.address for each in all_of_them] == ["systemd:http", "systemd:http", "systemd:https"]
    assert [each.sock.getsockname() for each in all_of_them] == [each.getsockname() for each in (one, two, other)]
    close_listeners(all_of_them)


def test_a_socket_of_systemd_is_found_by_its_address(opened, handed):
    (sock,) = handed("stratocast-edge.socket")
    settings = ListenSettings((f"127.0.0.1:{sock.getsockname()[1]}",))
    listeners = systemd_listeners(settings, {}, 1)
    ((found,),) = open_listeners(settings, handed=listeners)
    assert found.sock is listeners[0].sock
    close_listeners(listeners)


def test_a_socket_of_systemd_that_nobody_named_is_refused(handed):
    handed("web")
    with pytest.raises(UsageError, match='put "systemd:web" into `addresses`'):
        systemd_listeners(ListenSettings(), {}, 1)


def test_a_socket_that_systemd_should_give_and_does_not_is_named(opened):
    with pytest.raises(UsageError, match="no socket came from systemd for systemd:http"):
        opened("systemd:http")


def test_what_does_not_listen_is_refused():
    from edge.connection.listeners import adopt

    with socket.socket() as sock, pytest.raises(UsageError, match="no listening stream socket"):
        adopt("systemd:http", os.dup(sock.fileno()))
    reading, writing = os.pipe()
    os.close(writing)
    try:
        with pytest.raises(UsageError, match="is no socket"):
            adopt("systemd:http", reading)
    finally:
        os.close(reading)


def test_a_listening_socket_knows_its_address():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        assert ListeningSocket("systemd:http", sock).text == f"127.0.0.1:{sock.getsockname()[1]}"

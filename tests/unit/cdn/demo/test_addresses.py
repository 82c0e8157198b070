"""Finding what is free on loopback."""

import socket

import pytest

from cdn.demo import addresses
from cdn.demo.addresses import PORTS, check_addresses, free_port
from cdn.demo.report import DemoFailedError


def test_a_free_port_can_be_taken_on_every_address():
    hosts = ["127.0.0.1"]
    port = free_port(hosts, datagrams=True)
    assert port in PORTS
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as taken:
            taken.bind((hosts[0], port))


def test_a_port_that_is_taken_on_one_address_is_not_chosen(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setattr(addresses, "PORTS", range(port, port + 1))
        with pytest.raises(DemoFailedError, match=r"no port was found that is free on 127\.0\.0\.1"):
            free_port(["127.0.0.1"])


def test_an_address_that_this_machine_lacks_is_named_with_what_to_do():
    check_addresses(["127.0.0.1"])
    with pytest.raises(DemoFailedError, match=r"192\.0\.2\.1.*ifconfig lo0 alias 192\.0\.2\.1"):
        check_addresses(["127.0.0.1", "192.0.2.1"])

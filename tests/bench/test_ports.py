"""Ports are ours from the moment they are chosen."""

import socket

import pytest

from bench.ports import PortBusy, PortGuard


def test_a_guarded_port_is_taken_for_others_and_free_for_a_server_of_ours() -> None:
    guard = PortGuard()
    try:
        port = guard.take_free()
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("127.0.0.1", port))
            server.listen()
            with pytest.raises(PortBusy, match=f"port {port} of 127.0.0.1 is in use by another program"):
                PortGuard().take(port)
    finally:
        guard.close()


def test_ports_differ_and_come_back_after_the_end() -> None:
    first = PortGuard()
    ports = [first.take_free() for _ in range(20)]
    assert len(set(ports)) == 20
    first.close()
    second = PortGuard()
    try:
        for port in ports:
            second.take(port)
    finally:
        second.close()

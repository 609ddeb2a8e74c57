"""Connections between the processes of a run, here in one process: who is told of whose end."""

import queue
import socket
import time

import pytest

from lmjax.parallel.peers import Hub, Spoke


@pytest.fixture
def three():
    """Process 0, 1 and 2, each with a queue of the processes whose death it was told of."""
    told = [queue.Queue() for _ in range(3)]
    hub = Hub("127.0.0.1", num_processes=3, ended=told[0].put)
    with socket.create_connection(("127.0.0.1", hub.port)) as stranger:
        stranger.sendall(b"x" * 20)
        assert stranger.recv(1) == b""
    spokes = [Spoke("127.0.0.1", hub.port, hub.token, process=number, ended=told[number].put) for number in (1, 2)]
    yield hub, spokes, told
    hub.close()
    for spoke in spokes:
        spoke.close()


def test_the_death_of_one_is_told_to_all_others_by_its_number(three):
    _, (_, second), told = three
    second._connection.shutdown(socket.SHUT_WR)  # what the system of a killed process does
    assert [told[number].get(timeout=5) for number in (0, 1)] == [2, 2]


def test_the_death_of_process_0_is_noticed_by_the_others(three):
    hub, _, told = three
    while len(hub._peers) < 2:
        time.sleep(0.01)
    for connection in hub._peers.values():
        connection.shutdown(socket.SHUT_WR)
    assert [told[number].get(timeout=5) for number in (1, 2)] == [0, 0]


def test_an_orderly_end_is_no_death(three):
    hub, (first, second), told = three
    first.close()
    second.close()
    hub.close()
    for queue_ in told:
        with pytest.raises(queue.Empty):
            queue_.get(timeout=0.2)

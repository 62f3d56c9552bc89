"""What watches cost: `python -m tests.node.measure_watch` prints figures, `--help` says what can be varied.

First the hub alone, then a real cluster of three: very many watchers of one prefix on its leader, in
processes of their own; one event after the other; for each how long until the last watcher has it, how much
processor time the node spent on it, and how long at worst another call to that node took meanwhile. That call
takes the way that heartbeats take, through the same two threads, so it stands for how late one of them is.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from proto import kv_pb2, rpc_pb2, table_pb2
from proto.bridge import connect
from proto.bridge.channel import Channel
from raftd.watch.feed import LIMITS
from raftd.watch.hub import Batch, Change, Hub, Outbox, Watcher
from raftd.watch.ranges import key_range

KV = rpc_pb2.DESCRIPTOR.services_by_name["KV"].methods_by_name
WATCH = rpc_pb2.DESCRIPTOR.services_by_name["Watch"].methods_by_name["Watch"]
MAINTENANCE = rpc_pb2.DESCRIPTOR.services_by_name["Maintenance"].methods_by_name
COUNTERS = table_pb2.DESCRIPTOR.services_by_name["LeaderTable"].methods_by_name["Counters"]
PREFIX, PREFIX_END = b"watched/", b"watched0"
CHILDREN = 2
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


# The hub alone.


def measure_hub(title: str, watchers: int, range_of: Callable[[int], tuple[bytes, bytes]]) -> None:
    hub = Hub(1, LIMITS, lambda: 1, lambda: -1)
    outboxes = [Outbox(lambda: None) for _ in range(max(1, watchers // 10))]
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(watchers):
        outbox = outboxes[number % len(outboxes)]
        hub.add(Watcher(outbox, number, key_range(*range_of(number)), 2))
    for outbox in outboxes:
        drain(outbox)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    events = 50
    delivered = 0
    spent_s = 0.0
    longest_s = 0.0
    for revision in range(2, events + 2):
        key = PREFIX + b"%06d" % (revision * 7919 % watchers)
        event = kv_pb2.Event(kv=kv_pb2.KeyValue(key=key, value=bytes(256), mod_revision=revision))
        change = Change(revision, key, False, event.SerializeToString(), None)
        began = at = time.perf_counter()
        for _ in hub.publish(Batch(revision, revision, [change])):
            longest_s, at = max(longest_s, time.perf_counter() - at), time.perf_counter()
        spent_s += time.perf_counter() - began
        for outbox in outboxes:
            delivered += drain(outbox)
    print(
        f"hub, {watchers} {title}: {(after - before) / watchers:.0f} bytes per watcher, "
        f"{spent_s / events * 1e6:.0f} µs per event of {delivered / events:.0f} deliveries, "
        f"longest stretch {longest_s * 1e3:.1f} ms"
    )


def drain(outbox: Outbox) -> int:
    taken = 0
    while len(outbox):
        outbox.take()
        taken += 1
    return taken


# Children: clients of the node.


async def watch(address: str, streams: int, per_stream: int, events: int) -> None:
    """Opens the streams, says so, and then after each event when all watchers have it."""
    seen = [0] * events
    ready = 0
    expected = streams * per_stream
    channels = 10

    async def one_stream(channel: Channel) -> None:
        nonlocal ready
        async with channel.stream(WATCH) as stream:
            for _ in range(per_stream):
                create = rpc_pb2.WatchCreateRequest(key=PREFIX, range_end=PREFIX_END)
                await stream.send(rpc_pb2.WatchRequest(create_request=create))
            while True:
                for reply in await stream.receive_all():
                    if reply.created:
                        ready += 1
                        if ready == expected:
                            print("ready", flush=True)
                    for event in reply.events:
                        number = int(event.kv.value)
                        seen[number] += 1
                        if seen[number] == expected:
                            print(time.monotonic(), flush=True)

    async with trio.open_nursery() as nursery, contextlib.AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(connect(address, isolated=True)) for _ in range(channels)]
        for number in range(streams):
            nursery.start_soon(one_stream, opened[number % channels])
        await trio.sleep_forever()


async def probe(address: str) -> None:
    """Calls the node over and over; for each line of input says how long a call took at worst since then."""
    worst_s = 0.0

    async def call() -> None:
        nonlocal worst_s
        async with connect(address, isolated=True) as channel:
            while True:
                began = time.monotonic()
                await channel.unary(COUNTERS, table_pb2.CountersRequest(), timeout=60)
                worst_s = max(worst_s, time.monotonic() - began)
                await trio.sleep(0.002)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call)
        while await trio.to_thread.run_sync(sys.stdin.readline):
            print(worst_s, flush=True)
            worst_s = 0.0
        nursery.cancel_scope.cancel()


# The cluster.


@contextlib.contextmanager
def child(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()


def line(process: subprocess.Popen[str], say: str = "") -> str:
    assert process.stdin is not None
    assert process.stdout is not None
    if say:
        process.stdin.write(say + "\n")
        process.stdin.flush()
    return process.stdout.readline().strip()


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


async def leader_of(nodes: list[dict[str, object]]) -> tuple[str, int]:
    for node in nodes:
        address = str(node["client_url"]).removeprefix("http://")
        async with connect(address) as channel:
            status = await channel.unary(MAINTENANCE["Status"], rpc_pb2.StatusRequest(), timeout=10)
            if status.leader == status.header.member_id:
                return address, int(str(node["pid"]))
    raise AssertionError("no leader")


async def measure_events(address: str, pid: int, options: argparse.Namespace) -> None:
    with contextlib.ExitStack() as stack:
        before_bytes = resident_bytes(pid)
        arguments = ("watch", address, *map(str, (options.streams // CHILDREN, options.per_stream)))
        module = "tests.node.measure_watch"
        watching = [
            stack.enter_context(child(module, *arguments, str(options.events))) for _ in range(CHILDREN)
        ]
        for process in watching:
            assert line(process) == "ready"
        watchers = options.streams // CHILDREN * CHILDREN * options.per_stream
        grown = resident_bytes(pid) - before_bytes
        print(f"node, {watchers} watchers on {options.streams} streams: {grown / 1e6:.0f} MB more")
        probing = stack.enter_context(child(module, "probe", address))
        line(probing, "now")
        await trio.sleep(1)
        print(f"  idle: a call takes {float(line(probing, 'now')) * 1e3:.1f} ms at worst")
        delays, last, spent = [], [], []
        async with connect(address) as channel:
            for number in range(options.events):
                processor_before = processor_s(pid)
                line(probing, "now")
                began = time.monotonic()
                put = rpc_pb2.PutRequest(key=PREFIX + b"k", value=b"%d" % number)
                await channel.unary(KV["Put"], put, timeout=10)
                last.append(max(float(line(process)) for process in watching) - began)
                delays.append(float(line(probing, "now")))
                spent.append(processor_s(pid) - processor_before)
        print(
            f"  an event reaches the last watcher after {middle(last) * 1e3:.0f} ms, "
            f"{max(last) * 1e3:.0f} at worst"
        )
        print(f"  {sum(spent) / len(spent) / watchers * 1e6:.0f} µs of processor time per watcher and event")
        print(f"  a call meanwhile takes {middle(delays) * 1e3:.1f} ms, {max(delays) * 1e3:.1f} at worst")


def middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def main() -> None:
    if sys.argv[1:2] == ["watch"]:
        streams, per_stream, events = map(int, sys.argv[3:])
        trio.run(watch, sys.argv[2], streams, per_stream, events)
        return
    if sys.argv[1:2] == ["probe"]:
        trio.run(probe, sys.argv[2])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--per-stream", type=int, default=10)
    parser.add_argument("--events", type=int, default=20)
    options = parser.parse_args()
    measure_hub("of one prefix", 10_000, lambda _: (PREFIX, PREFIX_END))
    measure_hub("of one key each", 10_000, lambda number: (PREFIX + b"%06d" % number, b""))
    measure_hub(
        "of one range each", 10_000, lambda number: (PREFIX + b"%06d" % number, PREFIX + b"%06d~" % number)
    )
    with (
        tempfile.TemporaryDirectory() as directory,
        child(
            "bench", "cluster", "--nodes", "3", "--proxies", "0", "--data-dir", f"{directory}/cluster"
        ) as cluster,
    ):
        while not line(cluster).startswith("All serve"):
            pass
        nodes = json.loads(Path(f"{directory}/cluster/cluster.json").read_text())["nodes"]
        address, pid = trio.run(leader_of, nodes)
        trio.run(measure_events, address, pid, options)
        assert trio.run(leader_of, nodes) == (address, pid), "the fan-out has cost the leader its office"


if __name__ == "__main__":
    main()

"""How a server starts, refuses and ends: the whole of `raftd.server.run` with something wrong."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import lmdb
import pytest
import trio

from bench.ports import PortGuard
from proto import shell
from proto.bridge import AddressInUse, serve
from raftd import main, server
from raftd.core.messages import EntryKind
from raftd.kv import TABLES
from raftd.kv.command import NewerFormat
from raftd.kv.records import pack
from raftd.node import void
from raftd.options import NodeConfiguration
from raftd.store import Fenced, Store, StoreRefused
from raftd.writing import WriterThread
from tests.node.serving import BOUND_S, Member, Process, configurations, serving, until


@pytest.fixture
def ports() -> Iterator[PortGuard]:
    guard = PortGuard()
    yield guard
    guard.close()


async def run_until_ready(configuration: NodeConfiguration) -> int:
    """Starts, stops as soon as it serves, and returns the exit status."""
    process = Process()
    status = []
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            status.append(await server.run(configuration, process))
            process.is_ready.set()

        nursery.start_soon(run)
        with trio.fail_after(BOUND_S):
            await process.is_ready.wait()
        process.shutdown_requested.set()
    return status[0]


async def test_a_stop_before_the_cluster_has_formed(tmp_path: Path, ports: PortGuard) -> None:
    """The others never came; nothing is lost, and the directory is free for the next start."""
    alone, *_ = configurations(tmp_path, ports, 3)
    for _ in range(2):
        process = Process()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run, alone, process)
            await until(lambda: (tmp_path / "n1").exists())
            process.shutdown_requested.set()
    with Store.open(tmp_path / "n1", tables=TABLES) as store:
        assert store.identity.cluster_id is None


async def test_an_empty_directory_forms_no_existing_cluster(tmp_path: Path, ports: PortGuard) -> None:
    """Hazard 77: --initial-cluster-state existing is the promise that the data is there."""
    (alone,) = configurations(tmp_path, ports, 1)
    existing = replace(alone, initial_cluster_state="existing")
    with pytest.raises(StoreRefused, match="belongs to no cluster, and --initial-cluster-state is existing"):
        await server.run(existing, Process())
    (again,) = configurations(tmp_path / "again", ports, 1)
    assert await run_until_ready(again) == shell.EXIT_OK
    assert await run_until_ready(replace(again, initial_cluster_state="existing")) == shell.EXIT_OK


@pytest.mark.parametrize("plane", ["listen_client_urls", "listen_peer_urls"])
async def test_a_port_in_use_is_named(tmp_path: Path, ports: PortGuard, plane: str) -> None:
    (alone,) = configurations(tmp_path, ports, 1)
    address = getattr(alone, plane)[0].removeprefix("http://")
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, [address], [])
        with pytest.RaisesGroup(
            pytest.RaisesExc(AddressInUse, match=f"{address} is in use"),
            flatten_subgroups=True,
            allow_unwrapped=True,
        ):
            await server.run(alone, Process())
        nursery.cancel_scope.cancel()


async def test_an_address_that_cannot_be_served_is_not_remembered(tmp_path: Path, ports: PortGuard) -> None:
    """The first start fails on the client port; with another one the same directory forms its cluster."""
    (alone,) = configurations(tmp_path, ports, 1)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, [alone.listen_client_urls[0].removeprefix("http://")], [])
        with pytest.raises(AddressInUse):
            await server.run(alone, Process())
        nursery.cancel_scope.cancel()
    (other,) = configurations(tmp_path / "other", ports, 1)
    moved = replace(
        alone,
        listen_client_urls=other.listen_client_urls,
        advertise_client_urls=other.advertise_client_urls,
    )
    assert await run_until_ready(moved) == shell.EXIT_OK


async def test_two_processes_on_one_directory(tmp_path: Path) -> None:
    async with serving(tmp_path, 1) as members:
        with pytest.raises(StoreRefused, match="in use"):
            await server.run(members.all[0].configuration, Process())
        await members.all[0].put(b"k", b"v")


async def test_changed_addresses_are_refused(tmp_path: Path, ports: PortGuard) -> None:
    (alone,) = configurations(tmp_path, ports, 1)
    assert await run_until_ready(alone) == shell.EXIT_OK
    moved = replace(alone, advertise_client_urls=("http://127.0.0.1:1",))
    with pytest.RaisesGroup(
        pytest.RaisesExc(StoreRefused, match="^--advertise-client-urls is http://127.0.0.1:1, but"),
        flatten_subgroups=True,
    ):
        await server.run(moved, Process())


@asynccontextmanager
async def about_to_end(
    directory: Path, ports: PortGuard, error: type[Exception], text: str
) -> AsyncIterator[Member]:
    """A lone member that serves, and then ends with that error."""
    (configuration,) = configurations(directory, ports, 1)
    member = Member(configuration)
    made: list[server.Server] = []

    class Watched(server.Server):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            made.append(self)

    with pytest.RaisesGroup(pytest.RaisesExc(error, match=text), flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(server, "Server", Watched)
                nursery.start_soon(server.run, configuration, member.process)
                with trio.fail_after(BOUND_S):
                    await member.process.is_ready.wait()
            (member.server,) = made
            await until(lambda: member.node.leads)
            yield member
            await trio.sleep_forever()
    assert member.node.has_left_store
    member.node._store.close()  # as the end of the process does


def propose(member: Member, payload: bytes, kind: EntryKind = EntryKind.COMMANDS) -> None:
    """Past all that checks what may stand in the log."""
    node = member.node
    node._arrived.append(lambda: void(node.raft.propose(payload, kind)))
    node._awake.set()


async def test_a_storage_error_while_writing_fences(
    tmp_path: Path, ports: PortGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazards 61–64: the node ends, nothing is acknowledged, and it does not start again before a reboot."""
    async with about_to_end(tmp_path, ports, Fenced, "is fenced by a storage error") as member:

        def fail(transaction: object) -> None:
            raise lmdb.DiskError("write error")

        monkeypatch.setattr(member.node._store, "commit", fail)
        propose(member, b"", EntryKind.NOOP)
    assert (tmp_path / "n1" / "FENCED").exists()
    with pytest.raises(Fenced, match="reboot"):
        await server.run(member.configuration, Process())


async def test_a_newer_entry_stops_the_node_for_good(tmp_path: Path, ports: PortGuard) -> None:
    """An entry that this version does not know is never skipped: the node stops, and at the next start
    stops there again."""
    newer = pack((99, 0, []))
    async with about_to_end(tmp_path, ports, NewerFormat, "log entry of format 99") as member:
        propose(member, newer)
    with Store.open(tmp_path / "n1", tables=TABLES) as store:
        recovered = store.recover()
        assert newer in [entry.payload for entry in recovered.entries], "in the log, and not applied"
    with pytest.RaisesGroup(NewerFormat, flatten_subgroups=True):
        await server.run(member.configuration, Process())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NewerFormat("log entry of format 99"), shell.EXIT_STORAGE_REFUSED),
        (StoreRefused("belongs to another"), shell.EXIT_STORAGE_REFUSED),
        (Fenced("is fenced"), shell.EXIT_FENCED),
        (AddressInUse("127.0.0.1:1"), shell.EXIT_FAILURE),
    ],
)
def test_each_end_has_its_line_and_exit_status(
    error: Exception,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also from the depth of nurseries."""

    async def run(configuration: object, process: object) -> int:
        raise ExceptionGroup("", [ExceptionGroup("", [error])])

    monkeypatch.setattr(server, "run", run)
    monkeypatch.setattr("sys.argv", ["raftd"])
    monkeypatch.setattr(shell, "set_up_logging", lambda level: None)
    monkeypatch.setattr("sys.setswitchinterval", lambda interval: None)
    for name in [name for name in os.environ if name.startswith("RAFTD_")]:
        monkeypatch.delenv(name)
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == status
    assert capsys.readouterr().err == f"raftd: {error}\n"


async def test_a_writer_that_hangs_keeps_the_directory_open(
    tmp_path: Path, ports: PortGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazard 18: a sync under way must not lose the database under its feet. The end of the process does
    that."""
    closed: list[Store] = []

    async def hang(writer: WriterThread) -> bool:
        await trio.to_thread.run_sync(writer._writer.close)
        return False

    monkeypatch.setattr(WriterThread, "close", hang)
    monkeypatch.setattr(Store, "close", closed.append)
    (alone,) = configurations(tmp_path, ports, 1)
    assert await run_until_ready(alone) == shell.EXIT_FAILURE
    assert not closed


async def test_data_is_verified_on_request(tmp_path: Path, ports: PortGuard) -> None:
    """Hazard 75: an older value of a key has a right checksum; only reading everything tells."""
    (alone,) = configurations(tmp_path, ports, 1)
    verified = replace(alone, verify_data=True)
    assert await run_until_ready(alone) == shell.EXIT_OK
    assert await run_until_ready(verified) == shell.EXIT_OK
    with Store.open(tmp_path / "n1", tables=TABLES) as store:
        transaction = store.begin_write()
        transaction.put("history", b"key", b"newer")
        store.commit(transaction)
    with lmdb.open(str(tmp_path / "n1"), max_dbs=32, lib_version=0) as raw:
        older = b"older" + crc32(b"older", crc32(b"key")).to_bytes(4, "big")
        with raw.begin(write=True) as damaging:
            damaging.put(b"key", older, db=raw.open_db(b"history", damaging))
    with pytest.raises(StoreRefused, match="table history: the hash over all records does not match"):
        await server.run(verified, Process())

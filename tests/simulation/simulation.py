"""One history: an event heap, one source of randomness, and a final phase that demands liveness.

A *step* is one event in which a node calls its core: a tick, a delivered message, a finished write, a
client's request. After each, `checker.py` looks at what changed. What happens next depends on nothing but
the seed.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from random import Random
from typing import Any

from raftd.core.config import RaftConfig
from raftd.core.messages import Entry, EntryKind, Envelope, Message
from raftd.core.raft import Raft
from raftd.core.ready import LogRead, Ready, Role
from tests.simulation.checker import Checker, require
from tests.simulation.convergence import converge
from tests.simulation.faults import TICK, draw
from tests.simulation.journal import Journal
from tests.simulation.nemesis import Nemesis
from tests.simulation.network import Network
from tests.simulation.node import MakeRaft, Node

BOOTSTRAP = (Entry(1, 1, EntryKind.MEMBERSHIP, b""),)
JOURNAL_LENGTH = 120
_HASH_MASK = (1 << 61) - 1


@dataclass(slots=True)
class Process:
    """What the simulation knows about one node's process. `generation` counts its starts: what was meant
    for an earlier one is dropped."""

    node: Node
    tick_length: int
    generation: int = 0
    started_at: int = 0
    ticks: int = 0
    timer_at: int = 0
    paused_until: int = 0
    is_writing: bool = False
    turn_is_due: bool = False
    sync_factor: int = 1
    reads_served: int = 0
    reads: dict[int, int] = field(default_factory=dict)
    proposals: dict[int, tuple[int, bytes]] = field(default_factory=dict)


class Simulation:
    """One cluster and its history."""

    def __init__(
        self,
        seed: int,
        *,
        node_count: int | None = None,
        focus: Mapping[str, Any] | None = None,
        make_raft: MakeRaft = Raft,
        whole_journal: bool = False,
    ) -> None:
        """`focus` overrides fields of the mix that the seed draws."""
        self.seed = seed
        self.random = Random(f"simulation {seed}")
        self.mix = replace(draw(self.random, node_count), **(focus or {}))
        self.voters = tuple(range(1, self.mix.node_count + 1))
        self.marks: dict[str, int] = defaultdict(int)
        self.journal = Journal(None if whole_journal else JOURNAL_LENGTH)
        self.now = 0
        self.steps = 0
        self.trace_hash = 0
        self.nodes: dict[int, Node] = {}
        self.checker = Checker(self.voters, self.nodes, self.marks)
        self.network = Network(self.mix, self.random, self.marks, self._schedule_delivery)
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._scheduled = 0
        self._requests = 0
        self.processes: dict[int, Process] = {}
        self._nemesis = Nemesis(self)
        self._client_is_active = True
        bootstrap = BOOTSTRAP if self.mix.bootstrapped else ()
        self.checker.bootstrap(bootstrap)
        for node_id in self.voters:
            node = Node(self.config(node_id), str(seed), make_raft, self.checker, self, bootstrap)
            self.nodes[node_id] = node
            self.processes[node_id] = Process(node, tick_length=TICK + self.random.randrange(-10, 11))

    def config(self, node_id: int) -> RaftConfig:
        mix = self.mix
        return RaftConfig(
            node_id=node_id,
            voters=self.voters,
            heartbeat_ticks=mix.heartbeat_ticks,
            election_timeout_ticks=mix.election_timeout_ticks,
            append_retry_ticks=max(2, mix.election_timeout_ticks // 2),
            max_append_bytes=mix.max_append_bytes,
            max_inflight_appends=mix.max_inflight_appends,
            max_uncommitted_bytes=mix.max_uncommitted_bytes,
            max_apply_bytes=mix.max_append_bytes * 2,
            log_cache_bytes=mix.log_cache_bytes,
            read_retry_ticks=mix.heartbeat_ticks,
            max_pending_reads=mix.max_pending_reads,
        )

    # The run.

    def begin(self) -> None:
        """All nodes start, and so do clients and faults."""
        for node_id in self.voters:
            self.start(node_id, 0)
        self._at(self.now + self.mix.client_gap, self._client)
        if self.mix.faults:
            self._at(self.now + self.mix.fault_gap, self._fault)

    def run(self, steps: int) -> None:
        """At least `steps` steps with faults, then the end phase. Raises Violation, or what the core
        asserts."""
        self.begin()
        while self.steps < steps:
            self.next()
        converge(self)

    def next(self) -> None:
        self.now, _, action, operands = heappop(self._heap)
        action(*operands)

    def _at(self, time: int, action: Callable[..., None], *operands: Any) -> None:
        self._scheduled += 1
        heappush(self._heap, (time, self._scheduled, action, operands))

    def _awake(
        self, node_id: int, generation: int, action: Callable[..., None], *operands: Any
    ) -> Process | None:
        """The process an event is for, its clock up to date; None when it is gone, or not yet awake."""
        process = self.processes[node_id]
        if process.generation != generation or not process.node.is_up:
            return None
        if process.paused_until > self.now:
            self._at(process.paused_until, action, node_id, generation, *operands)
            return None
        self.advance_clock(process)
        return process

    def advance_clock(self, process: Process) -> None:
        elapsed = (self.now - process.started_at) // process.tick_length - process.ticks
        if elapsed <= 0:
            return
        process.ticks += elapsed
        node = process.node
        self.steps += 1
        if self.mix.single_ticks:
            self.journal.record(("tick", node.node_id, elapsed, "singly"))
            for _ in range(elapsed):
                node.tick(1)
        else:
            self.journal.record(("tick", node.node_id, elapsed))
            node.tick(elapsed)

    def stepped(self, process: Process) -> None:
        """After a call of the core: take the Ready, now or a little later, and see when it is due again."""
        node = process.node
        raft = node.core
        self.steps += 1
        if self.mix.lazy_turns and self.random.random() < self.mix.lazy_turns:
            if not process.turn_is_due:
                process.turn_is_due = True
                self._at(self.now + self._between(1, 60), self._turn, node.node_id, process.generation)
        else:
            self._take_turn(process)
        due = process.started_at + (process.ticks + max(1, raft.ticks_until_due())) * process.tick_length
        if due < process.timer_at or process.timer_at <= self.now:
            process.timer_at = due
            self._at(due, self._timer, node.node_id, process.generation, due)
        mixed = self.now * 31 + node.node_id + raft.term * 1009 + raft.commit_index * 8191 + raft.last_index
        self.trace_hash = (self.trace_hash * 1000003 + mixed) & _HASH_MASK

    def _take_turn(self, process: Process) -> None:
        node = process.node
        while node.core.has_ready():
            self.journal.record(("turn", node.node_id))
            node.turn()
        if node.disk.queued and not process.is_writing:
            self._start_write(process)

    def _between(self, low: int, high: int) -> int:
        return low + int(self.random.random() * (high - low + 1))

    # Events of a node.

    def _timer(self, node_id: int, generation: int, due: int) -> None:
        if self.processes[node_id].timer_at != due:
            return  # It was set anew since.
        process = self._awake(node_id, generation, self._timer, due)
        if process:
            self.stepped(process)

    def _turn(self, node_id: int, generation: int) -> None:
        process = self._awake(node_id, generation, self._turn)
        if process:
            process.turn_is_due = False
            self._take_turn(process)

    def _schedule_delivery(
        self, time: int, number: int, sender: int, receiver: int, message: Message, epoch: int
    ) -> None:
        self._at(time, self._deliver, receiver, number, sender, message, epoch)

    def _deliver(self, receiver: int, number: int, sender: int, message: Message, epoch: int) -> None:
        process = self.processes[receiver]
        if not process.node.is_up:
            self.marks["lost to a dead node"] += 1
        elif process.paused_until > self.now:
            self._at(process.paused_until, self._deliver, receiver, number, sender, message, epoch)
        elif self.network.arrives(sender, receiver, epoch):
            if self.mix.ticks_first:
                self.advance_clock(process)
            self.journal.record(("deliver", receiver, number, sender, message))
            process.node.receive(sender, message)
            self.advance_clock(process)
            self.stepped(process)

    def _start_write(self, process: Process) -> None:
        process.is_writing = True
        node = process.node
        if any(job.committed for job in node.disk.queued):
            delay = self._between(1, 10 + self.mix.apply_delay)
            self._at(self.now + delay, self._write, node.node_id, process.generation)
        else:
            self._begin_transaction(process)

    def _begin_transaction(self, process: Process) -> None:
        node = process.node
        self.journal.record(("write", node.node_id))
        node.write()
        if node.disk.needs_sync() or self.random.random() < 0.2:
            delay = self._between(self.mix.sync_min, self.mix.sync_max) * process.sync_factor
            self._at(self.now + delay, self._sync, node.node_id, process.generation)
        else:
            process.is_writing = False

    def _write(self, node_id: int, generation: int) -> None:
        process = self._awake(node_id, generation, self._write)
        if process:
            self._begin_transaction(process)
            self.stepped(process)

    def _sync(self, node_id: int, generation: int) -> None:
        process = self._awake(node_id, generation, self._sync)
        if process:
            self.journal.record(("sync", node_id))
            process.is_writing = False
            process.node.sync()
            if process.node.disk.queued:
                self._start_write(process)
            self.stepped(process)

    def _load_log(self, node_id: int, generation: int, log_read: LogRead) -> None:
        process = self._awake(node_id, generation, self._load_log, log_read)
        if process:
            self.journal.record(("load", node_id, f"n{log_read.follower}", log_read.first_index))
            self.marks["log reads"] += 1
            process.node.load_log(log_read)
            self.stepped(process)

    def _lose_stream(self, node_id: int, generation: int, peer: int) -> None:
        process = self._awake(node_id, generation, self._lose_stream, peer)
        if process:
            self.journal.record(("lose-stream", node_id, f"n{peer}"))
            process.node.lose_stream(peer)
            self.stepped(process)
            self._at(self.now + self._between(1, 500), self._restore_stream, node_id, generation, peer)

    def _restore_stream(self, node_id: int, generation: int, peer: int) -> None:
        process = self._awake(node_id, generation, self._restore_stream, peer)
        if process:
            self.journal.record(("restore-stream", node_id, f"n{peer}"))
            process.node.restore_stream(peer)
            self.stepped(process)

    # Surroundings of the nodes.

    def send(self, sender: Node, envelope: Envelope) -> None:
        self.marks["messages"] += 1
        self.network.send(self.now, sender.node_id, envelope.to, envelope.message)

    def wants_log(self, node: Node, log_read: LogRead) -> None:
        generation = self.processes[node.node_id].generation
        self._at(self.now + self._between(1, 300), self._load_log, node.node_id, generation, log_read)

    def took(self, node: Node, ready: Ready) -> None:
        if ready.soft_state is not None:
            self.marks[f"became {ready.soft_state.role.value}"] += 1

    def applied(self, node: Node, entry: Entry) -> None:
        proposal = self.processes[node.node_id].proposals.pop(entry.index, None)
        if proposal is not None:
            term, payload = proposal
            if term == entry.term:
                require(
                    payload == entry.payload, "Proposed Once", node, "acknowledges", payload, "for", entry
                )
                self.marks["acknowledged"] += 1
            else:
                self.marks["proposals overwritten"] += 1

    def read_done(self, node: Node, token: int, index: int | None) -> None:
        floor = self.processes[node.node_id].reads.pop(token, None)
        require(floor is not None, "Reads", node, "answers unasked or twice:", token)
        if index is None:
            self.marks["reads failed"] += 1
            return
        require(
            index >= (floor or 0), "Linearizability", node, f"reads at {index}, committed before: {floor}"
        )
        require(node.applied_index >= index, "Linearizability", node, "reads at", node.applied_index)
        role = "leader" if node.core.role is Role.LEADER else "followers"
        self.marks[f"reads on {role}"] += 1
        self.processes[node.node_id].reads_served += 1

    # Clients.

    def _client(self) -> None:
        if not self._client_is_active:
            return
        self._at(self.now + self._between(1, 2 * self.mix.client_gap), self._client)
        awake = [p for p in self.processes.values() if p.node.is_up and p.paused_until <= self.now]
        if not awake:
            return
        process = awake[int(self.random.random() * len(awake))]
        reads = self.random.random() < self.mix.read_share
        if self.random.random() < (0.4 if reads else 0.9):
            leaders = [p for p in awake if p.node.core.role is Role.LEADER]
            if leaders:
                process = leaders[int(self.random.random() * len(leaders))]
        if reads:
            self.read(process)
            return
        self.advance_clock(process)
        for _ in range(self._between(1, self.mix.burst_max)):
            self.propose(process)
        self.stepped(process)

    def propose(self, process: Process) -> tuple[int, int] | None:
        self._requests += 1
        payload = b"c%d" % self._requests
        self.journal.record(("propose", process.node.node_id, payload))
        answer = process.node.propose(payload)
        if answer is None:
            self.marks["proposals refused"] += 1
        else:
            process.proposals[answer[0]] = (answer[1], payload)
        return answer

    def read(self, process: Process) -> None:
        """A linearizable read must see all that anybody knew to be committed when it began."""
        self.advance_clock(process)
        self._requests += 1
        process.reads[self._requests] = len(self.checker.committed)
        self.journal.record(("read", process.node.node_id, self._requests))
        process.node.read(self._requests)
        self.stepped(process)

    # Faults.

    def _fault(self) -> None:
        if self.mix.faults:
            self._nemesis.strike(self.random.choice(self.mix.faults))
            self._at(self.now + self._between(1, 2 * self.mix.fault_gap), self._fault)

    def crash(self, node_id: int) -> None:
        """SIGKILL or power loss; a sync under way may have completed, or not."""
        process = self.processes[node_id]
        node = process.node
        if process.is_writing and node.disk.running and self.random.random() < 0.3:
            node.disk.sync(node.applied_index, node.digest)
            self.journal.record(("crash", node_id, "synced"))
        else:
            self.journal.record(("crash", node_id))
        self.marks["crashes"] += 1
        if node.crash():
            self.marks["crashes that lost a write"] += 1
        process.generation += 1
        process.is_writing = process.turn_is_due = False
        process.paused_until = 0
        process.reads.clear()
        process.proposals.clear()
        power_loss = self.random.random() < 0.3
        for peer in self.voters:
            if peer != node_id:
                self.network.break_stream(node_id, peer)
                if not power_loss:
                    self.notice_break(peer, node_id)

    def notice_break(self, node_id: int, peer: int) -> None:
        """`node_id` sees its streams with `peer` break; `peer` need not."""
        generation = self.processes[node_id].generation
        self._at(self.now + self._between(1, 100), self._lose_stream, node_id, generation, peer)

    def start(self, node_id: int, base_index: int | None = None) -> None:
        """From its disk, with a window of the log that begins anywhere below what is applied."""
        process = self.processes[node_id]
        node = process.node
        if node.is_up:
            return
        base = self._between(0, node.disk.applied_index) if base_index is None else base_index
        self.journal.record(("start", node_id, base))
        self.marks["starts"] += 1
        process.started_at = self.now
        process.ticks = process.timer_at = 0
        node.start(base)
        self.stepped(process)

    def schedule_start(self, node_id: int, delay: int) -> None:
        self._at(self.now + delay, self.start, node_id)

    def schedule_heal(self, delay: int) -> None:
        self._at(self.now + delay, self.network.heal)

    def break_stream(self, first: int, second: int) -> None:
        self.network.break_stream(first, second)
        self.notice_break(first, second)
        self.notice_break(second, first)

    def slow_disk(self, node_id: int, factor: int, duration: int) -> None:
        process = self.processes[node_id]
        process.sync_factor = factor
        self._at(self.now + duration, self._restore_disk, node_id)

    def _restore_disk(self, node_id: int) -> None:
        self.processes[node_id].sync_factor = 1

    def pause(self, node_id: int, duration: int) -> None:
        process = self.processes[node_id]
        process.paused_until = max(process.paused_until, self.now + duration)

    def transfer(self, node_id: int, to: int | None) -> None:
        process = self._awake(node_id, self.processes[node_id].generation, self.transfer_again, to)
        if process:
            self.journal.record(("transfer", node_id, None if to is None else f"n{to}"))
            if process.node.transfer(to):
                self.marks["transfers begun"] += 1
            self.stepped(process)

    def transfer_again(self, node_id: int, generation: int, to: int | None) -> None:
        if self.processes[node_id].generation == generation and self.processes[node_id].node.is_up:
            self.transfer(node_id, to)

    def calm_down(self) -> None:
        """No faults and no clients any more; everything is up, connected and quick."""
        self._client_is_active = False
        timeout = self.mix.election_timeout_ticks * TICK
        self.mix = replace(
            self.mix,
            faults=(),
            loss=0.0,
            duplication=0.0,
            stragglers=0.0,
            delay_max=min(self.mix.delay_max, timeout // 8),
            sync_max=min(self.mix.sync_max, timeout // 8),
        )
        self.network.calm_down(self.mix)
        for node_id, process in self.processes.items():
            process.paused_until = 0
            process.sync_factor = 1
            self.start(node_id)

    def state(self) -> str:
        """Where each node stands, for a report."""
        return "; ".join(node.state() for node in self.nodes.values())

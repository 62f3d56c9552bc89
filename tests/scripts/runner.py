"""Carries out the commands of a golden script: each `_do_…` method is one, its docstring the syntax."""

from collections.abc import Callable
from dataclasses import replace

from raftd.core.config import RaftConfig
from raftd.core.messages import Entry, EntryKind, HardState
from raftd.core.raft import Raft
from raftd.core.ready import Role
from tests.scripts.stage import BOOTSTRAP, InFlight, Stage
from tests.simulation.checker import Checker
from tests.simulation.node import Node

STABILIZE_ROUNDS = 200
CAMPAIGN_TICKS = 1000


class Script:
    """One cluster under the commands of one script."""

    def __init__(self) -> None:
        self._stage = Stage()
        self._commands: dict[str, Callable[[list[str]], None]] = {
            name.removeprefix("_do_").replace("_", "-"): getattr(self, name)
            for name in dir(self)
            if name.startswith("_do_")
        }

    def run(self, text: str) -> str:
        """The script with fresh traces."""
        lines: list[str] = []
        for line in text.splitlines():
            if line.startswith("> "):
                lines += [line, *self._carry_out(line[2:])]
            elif line.startswith("#") or not line.strip():
                lines.append(line)
        return "\n".join(lines) + "\n"

    def state(self) -> str:
        return "; ".join(node.state() for node in self._stage.nodes.values())

    def _carry_out(self, command: str) -> list[str]:
        self._stage.trace = []
        name, *operands = command.split()
        self._commands[name](operands)
        self._stage.settle()
        return self._stage.trace

    # Commands: the cluster.

    def _do_cluster(self, words: list[str]) -> None:
        """cluster nodes=3 [seed=…] [bootstrap=no] [down=yes] [manual=yes] [any integer field of
        RaftConfig=…]"""
        options = dict(word.split("=") for word in words)
        voters = tuple(range(1, int(options.pop("nodes")) + 1))
        seed = options.pop("seed", "script")
        bootstrap = BOOTSTRAP if options.pop("bootstrap", "yes") == "yes" else ()
        self._stage.is_manual = options.pop("manual", "no") == "yes"
        down = options.pop("down", "no") == "yes"
        config = replace(
            RaftConfig(node_id=1, voters=voters, heartbeat_ticks=10, election_timeout_ticks=60),
            **{name: int(value) for name, value in options.items()},  # type: ignore[arg-type]
        )
        self._checker = Checker(voters, self._stage.nodes)
        self._checker.bootstrap(bootstrap)
        for voter in voters:
            own_config = replace(config, node_id=voter)
            self._stage.nodes[voter] = Node(own_config, seed, Raft, self._checker, self._stage, bootstrap)
            if not down:
                self._stage.nodes[voter].start()

    def _do_disk(self, words: list[str]) -> None:
        """disk n1 slow|fast|term=6 log=1,1,1,4: its speed, or (while down) what it holds."""
        node = self._node(words[0])
        if words[1] in ("slow", "fast"):
            (self._stage.slow.add if words[1] == "slow" else self._stage.slow.discard)(node.node_id)
            return
        options = dict(word.split("=") for word in words[1:])
        terms = [int(term) for term in options["log"].split(",")]
        node.disk.hard_state = HardState(int(options["term"]), None)
        node.disk.log[:] = [
            Entry(index, term, EntryKind.COMMANDS, b"%d.%d" % (index, term))
            for index, term in enumerate(terms, start=1)
        ]
        self._checker.given(node.disk.log)

    def _do_start(self, words: list[str]) -> None:
        """start n1|all [base]: the window of the log in memory begins after `base`."""
        for node in self._chosen(words[0]):
            node.start(int(words[1]) if len(words) > 1 else 0)

    def _do_crash(self, words: list[str]) -> None:
        """crash n1|all [synced]: a sync under way is lost, or `synced`."""
        for node in self._chosen(words[0]):
            if words[1:] == ["synced"]:
                node.disk.sync(node.applied_index, node.digest)
            node.crash()

    def _do_status(self, words: list[str]) -> None:
        for node in self._chosen(words[0] if words else "all"):
            if node.is_up:
                core = node.core
                log = " ".join(f"{entry.index}@{entry.term}" for entry in node.disk.log[-6:])
                self._stage.trace.append(
                    f"{node}@{core.term} {core.role.value} commit={core.commit_index} "
                    f"applied={node.applied_index} log=… {log}"
                )
            else:
                self._stage.trace.append(f"{node} down")

    # Commands: time and clients.

    def _do_tick(self, words: list[str]) -> None:
        """tick n1|all 5 [singly]"""
        ticks = int(words[1])
        for node in self._chosen(words[0]):
            for _ in range(ticks if words[2:] == ["singly"] else 1):
                node.tick(1 if words[2:] == ["singly"] else ticks)

    def _do_campaign(self, words: list[str]) -> None:
        """campaign n1: only its clock runs, until it acts on its election timeout."""
        node = self._node(words[0])
        ticks = 0
        while node.core.role is Role.FOLLOWER:
            node.tick(due := node.core.ticks_until_due())
            ticks += due
            assert ticks < CAMPAIGN_TICKS, f"{node} never campaigns"

    def _do_elect(self, words: list[str]) -> None:
        """elect n1: a campaign and all that follows, without its trace (election.txt shows it)."""
        self._do_campaign(words)
        self._stage.settle()
        self._do_stabilize([])
        self._stage.trace.clear()
        assert self._node(words[0]).core.role is Role.LEADER, f"{words[0]} was not elected"

    def _do_propose(self, words: list[str]) -> None:
        """propose n1 x y z"""
        node = self._node(words[0])
        for word in words[1:]:
            if node.propose(word.encode()) is None:
                self._stage.trace.append(f"{node} refuses {word}")

    def _do_read(self, words: list[str]) -> None:
        """read n1 7: a linearizable read, named 7"""
        self._node(words[0]).read(int(words[1]))

    def _do_transfer(self, words: list[str]) -> None:
        """transfer n1 [n2]"""
        node = self._node(words[0])
        if not node.transfer(self._node(words[1]).node_id if len(words) > 1 else None):
            self._stage.trace.append(f"{node} refuses")

    # Commands: the network.

    def _do_deliver(self, words: list[str]) -> None:
        """deliver (all that is in flight) | n1 n2 (that link) | n2 (to it) | m7 …; keep: leave copies in
        flight"""
        keep = "keep" in words or self._stage.is_manual
        for item in self._select([word for word in words if word != "keep"]):
            if not keep and item in self._stage.flight:
                self._stage.flight.remove(item)
            self._stage.deliver(item)

    def _do_drop(self, words: list[str]) -> None:
        for item in self._select(words):
            self._stage.flight.remove(item)

    def _do_stabilize(self, _words: list[str]) -> None:
        """Delivers everything, and what that causes, until nothing is in flight."""
        for _ in range(STABILIZE_ROUNDS):
            if not self._stage.flight:
                return
            self._do_deliver([])
        raise AssertionError("the cluster does not come to rest")

    def _do_partition(self, words: list[str]) -> None:
        """partition n1 | n2 n3: no message passes between the groups; what is under way is lost."""
        groups = [
            [self._node(word).node_id for word in group.split()] for group in " ".join(words).split("|")
        ]
        for group in groups:
            self._stage.cuts |= {
                (a, b) for a in group for other in groups if other is not group for b in other
            }
        self._stage.lose_cut()

    def _do_cut(self, words: list[str]) -> None:
        """cut n1 n2: nothing passes from n1 to n2."""
        self._stage.cuts.add((self._node(words[0]).node_id, self._node(words[1]).node_id))
        self._stage.lose_cut()

    def _do_heal(self, _words: list[str]) -> None:
        self._stage.cuts.clear()

    def _do_lose_stream(self, words: list[str]) -> None:
        """lose-stream n2 n1: n2 sees its streams with n1 break."""
        self._node(words[0]).lose_stream(self._node(words[1]).node_id)

    def _do_restore_stream(self, words: list[str]) -> None:
        """restore-stream n1 n2: n1 has a new stream to n2."""
        self._node(words[0]).restore_stream(self._node(words[1]).node_id)

    # Commands: one node's turn and disk by hand (`manual=yes`, or a slow disk).

    def _do_turn(self, words: list[str]) -> None:
        self._node(words[0]).turn()

    def _do_write(self, words: list[str]) -> None:
        self._node(words[0]).write()

    def _do_sync(self, words: list[str]) -> None:
        node = self._node(words[0])
        if not self._stage.is_manual:
            node.write()
        node.sync()

    def _do_load(self, words: list[str]) -> None:
        """load n1 n2 5: answers that LogRead."""
        node, follower, first_index = self._node(words[0]), self._node(words[1]).node_id, int(words[2])
        for load in self._stage.loads:
            if load[0] is node and load[1].follower == follower and load[1].first_index == first_index:
                self._stage.loads.remove(load)
                node.load_log(load[1])
                return
        raise AssertionError(f"{node} asked for no such entries")

    # Operands.

    def _node(self, word: str) -> Node:
        return self._stage.nodes[int(word.removeprefix("n"))]

    def _chosen(self, word: str) -> list[Node]:
        return list(self._stage.nodes.values()) if word == "all" else [self._node(word)]

    def _select(self, words: list[str]) -> list[InFlight]:
        if words and words[0].startswith("m"):
            return [item for word in words for item in self._stage.flight if f"m{item.number}" == word]
        links = [self._node(word).node_id for word in words]
        return [
            item
            for item in self._stage.flight
            if not links or (links == [item.sender, item.to] if len(links) == 2 else links == [item.to])
        ]

"""What must hold after every step of a cluster: the five safety properties of the Raft paper (Figure 3) and
more.

It sees every node from outside: role, term and commit index after each call of the core, each Ready as it
is taken, each message as it leaves, each entry as it is applied. From these it keeps its own copy of every
log, so that each check costs no more than what changed. By induction: if no two entries of one index and
term ever differ in content or in the term before them, then any two logs that agree at an index agree below
it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from zlib import crc32

from raftd.core.messages import (
    AppendEntries,
    AppendEntriesReply,
    Entry,
    Envelope,
    HardState,
    Heartbeat,
    RequestVote,
    RequestVoteReply,
)
from raftd.core.ready import Ready, Role

if TYPE_CHECKING:
    from tests.simulation.node import Node


class Violation(AssertionError):
    """A property does not hold; the text says which and with what values."""


def require(condition: bool, property_name: str, *facts: object) -> None:
    if not condition:
        raise Violation(f"{property_name}: " + " ".join(str(fact) for fact in facts))


def digest_after(digest: int, entry: Entry) -> int:
    """The state of the fake state machine once `entry` is applied: equal only for equal histories."""
    return crc32(entry.payload, digest ^ entry.term)


@dataclass(slots=True)
class View:
    """One node as the checker last saw it. `log` holds what its Readys asked to be written, durable or
    not."""

    log: list[Entry]
    hard_state: HardState
    commit_index: int
    applied_index: int
    role: Role = Role.FOLLOWER
    term: int = 0
    led_at_last_turn: int = 0
    matches: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Checker:
    voters: tuple[int, ...]
    nodes: Mapping[int, "Node"]
    marks: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    leaders: dict[int, int] = field(default_factory=dict)
    votes: dict[tuple[int, int], int] = field(default_factory=dict)
    appended: dict[tuple[int, int], tuple[int, Entry]] = field(default_factory=dict)
    committed: list[Entry] = field(default_factory=list)
    committed_in_term: list[int] = field(default_factory=list)
    digests: list[int] = field(default_factory=lambda: [0])
    payloads: set[bytes] = field(default_factory=set)
    views: dict[int, View] = field(default_factory=dict)

    def bootstrap(self, entries: Sequence[Entry]) -> None:
        """Entries that every node has from the start."""
        for entry in self.given(entries):
            self.digests.append(digest_after(self.digests[-1], entry))
            self.committed.append(entry)
            self.committed_in_term.append(entry.term)

    def given(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """A log that stands on some disk before the history begins."""
        term_before = 0
        for entry in entries:
            known = self.appended.setdefault((entry.index, entry.term), (term_before, entry))
            require(known == (term_before, entry), "Log Matching", entry, "against", known)
            term_before = entry.term
        return entries

    def started(self, node: "Node") -> None:
        """A node came up: it continues from what its disk kept, and may have forgotten nothing it had
        said."""
        disk, raft = node.disk, node.core
        if len(self.voters) == 1:
            # It may lead a term again that it had forgotten, as nobody else could have heard of it.
            self.appended.clear()
            self.given(disk.log)
        self.views[node.node_id] = View(
            log=list(disk.log),
            hard_state=disk.hard_state,
            commit_index=disk.applied_index,
            applied_index=disk.applied_index,
            term=disk.hard_state.term,
        )
        require(raft.term == disk.hard_state.term, "Persistence", node, "restarts in term", raft.term)
        require(
            raft.last_index == len(disk.log), "Persistence", node, "restarts with log to", raft.last_index
        )
        require(
            raft.commit_index == disk.applied_index, "Persistence", node, "restarts at", raft.commit_index
        )

    def stepped(self, node: "Node") -> None:
        """After every call of the core: terms only grow, and one node leads a term."""
        raft = node.core
        view = self.views[node.node_id]
        term = raft.term
        if term != view.term:
            require(term > view.term, "Term Monotonic", node, "went from", view.term, "to", term)
            view.term = term
            view.role = Role.FOLLOWER
        role = raft.role
        if role is not view.role:
            view.role = role
            if role is Role.LEADER:
                view.matches.clear()
                self._elected(node, term)
        require(raft.commit_index >= view.commit_index, "Commit Monotonic", node, "at", raft.commit_index)

    def _elected(self, node: "Node", term: int) -> None:
        first = self.leaders.setdefault(term, node.node_id)
        require(first == node.node_id, "Election Safety", node, "leads term", term, "beside", f"n{first}")
        votes = sum(1 for voter in self.voters if self.votes.get((voter, term)) == node.node_id)
        # A cluster of one asks nobody; its vote reaches the disk together with its first entry.
        is_elected = 2 * votes > len(self.voters) or len(self.voters) == 1
        require(is_elected, "Election Safety", node, "leads term", term, "by votes:", votes)
        self.marks["elections"] += 1
        self._require_complete(self.views[node.node_id], node, term)

    def _require_complete(self, view: View, node: "Node", term: int) -> None:
        """Leader Completeness; Log Matching extends it from the newest entry to all below."""
        index = len(self.committed)
        while index and self.committed_in_term[index - 1] >= term:
            index -= 1
        if index == 0:
            return
        entry = self.committed[index - 1]
        require(
            len(view.log) >= index and view.log[index - 1].term == entry.term,
            "Leader Completeness",
            f"{node} leads term {term} without committed {index}@{entry.term}",
        )

    def turned(self, node: "Node", ready: Ready) -> None:
        """A Ready was taken; nothing of it has been done yet."""
        view = self.views[node.node_id]
        raft = node.core
        if ready.hard_state is not None:
            self._hard_state_changed(node, view, ready.hard_state)
        leads = view.term if view.role is Role.LEADER else 0
        if ready.entries:
            self._appended(
                node, view, ready.entries, append_only=leads != 0 and leads == view.led_at_last_turn
            )
        view.led_at_last_turn = leads
        if leads:
            self._check_matches(node, view)
        require(
            raft.last_index == len(view.log), "Persistence", node, "holds entries it does not ask to write"
        )
        if raft.commit_index != view.commit_index:
            self._commit_advanced(node, view, raft.commit_index)
        for envelope in ready.messages_after_write:
            self._check_match_claim(node, view, envelope)

    def _hard_state_changed(self, node: "Node", view: View, new: HardState) -> None:
        old = view.hard_state
        require(new.term >= old.term, "Term Monotonic", node, "writes term", new.term, "after", old.term)
        if new.term == old.term and old.voted_for is not None:
            require(new.voted_for == old.voted_for, "One Vote", node, "changes its vote in term", new.term)
        require(new.term <= view.term, "Persistence", node, "writes term", new.term, "in term", view.term)
        view.hard_state = new

    def _appended(self, node: "Node", view: View, entries: list[Entry], *, append_only: bool) -> None:
        log = view.log
        first_index = entries[0].index
        require(0 < first_index <= len(log) + 1, "Log Contiguous", node, first_index, "after", len(log))
        require(
            first_index > view.commit_index, "State Machine Safety", node, "rewrites committed", first_index
        )
        if first_index <= len(log):
            require(not append_only, "Leader Append-Only", node, "rewrites", first_index, "of", len(log))
            self.marks["truncations"] += 1
            del log[first_index - 1 :]
        term_before = log[-1].term if log else 0
        for entry in entries:
            require(entry.index == len(log) + 1, "Log Contiguous", node, entry.index, "after", len(log))
            require(
                term_before <= entry.term <= view.term, "Log Terms", node, entry, "after term", term_before
            )
            known = self.appended.setdefault((entry.index, entry.term), (term_before, entry))
            require(
                known[0] == term_before and (known[1] is entry or known[1] == entry),
                "Log Matching",
                f"{node} has {entry} after term {term_before}, elsewhere {known[1]} after {known[0]}",
            )
            log.append(entry)
            term_before = entry.term

    def _commit_advanced(self, node: "Node", view: View, commit_index: int) -> None:
        log = view.log
        require(commit_index <= len(log), "Commit Range", node, "commits", commit_index, "of", len(log))
        if view.role is Role.LEADER:
            term = log[commit_index - 1].term
            require(term == view.term, "§5.4.2", node, "commits", f"{commit_index}@{term} in term", view.term)
        known = len(self.committed)
        for index in range(view.commit_index + 1, min(commit_index, known) + 1):
            theirs = self.committed[index - 1]
            require(
                log[index - 1].term == theirs.term,
                "State Machine Safety",
                f"{node} commits {index}@{log[index - 1].term}, elsewhere {index}@{theirs.term}",
            )
        view.commit_index = commit_index
        if commit_index > known:
            self._newly_committed(node, view, log[known:commit_index])

    def _check_matches(self, node: "Node", view: View) -> None:
        """What a leader counts for a follower only grows, and is on its disk (hazards 21, 23, 24).

        A follower that has seen a newer leader may have replaced it since, and nobody counts on it then.
        """
        for follower in node.core.status().followers:
            index = follower.match_index
            before = view.matches.get(follower.node_id, 0)
            if index == before:
                continue
            require(index > before, "Match Monotonic", node, f"n{follower.node_id}", before, "→", index)
            view.matches[follower.node_id] = index
            disk = self.nodes[follower.node_id].disk
            if disk.hard_state.term <= view.term:
                require(
                    len(disk.log) >= index and disk.log[index - 1].term == view.log[index - 1].term,
                    "Match",
                    f"{node} counts n{follower.node_id} at {index}, its disk ends at {len(disk.log)}",
                )

    def _newly_committed(self, node: "Node", view: View, entries: list[Entry]) -> None:
        last = entries[-1]
        holders = sum(
            1
            for each in self.nodes.values()
            if len(each.disk.log) >= last.index and each.disk.log[last.index - 1].term == last.term
        )
        require(
            2 * holders > len(self.voters),
            "Commit",
            node,
            f"{last.index}@{last.term} durable on only",
            holders,
        )
        for entry in entries:
            self.committed.append(entry)
            self.committed_in_term.append(view.term)
            if entry.payload:
                require(entry.payload not in self.payloads, "Proposed Once", node, entry.payload, "twice")
                self.payloads.add(entry.payload)
        self.marks["commits"] += len(entries)
        for other in self.nodes.values():
            if not other.is_up:
                continue
            other_view = self.views[other.node_id]
            if other_view.role is Role.LEADER and other_view.term > view.term:
                self._require_complete(other_view, other, other_view.term)

    def _check_match_claim(self, node: "Node", view: View, envelope: Envelope) -> None:
        """A success says "equal to yours up to here" (hazard 23): compare with the log of that leader."""
        message = envelope.message
        if type(message) is not AppendEntriesReply or not message.success:
            return
        index = message.match_index
        require(index <= len(view.log), "Match", node, "claims", index, "of", len(view.log))
        leader = self.views[envelope.to]
        if index and leader.role is Role.LEADER and leader.term == message.term:
            require(
                len(leader.log) >= index and leader.log[index - 1].term == view.log[index - 1].term,
                "Match",
                f"{node} claims {index}, differs from n{envelope.to} in term {message.term}",
            )

    def departs(self, node: "Node", envelope: Envelope) -> None:
        """A message leaves its node: whatever it promises is on that node's disk by now (hazard 4)."""
        message = envelope.message
        kind = type(message)
        if kind is AppendEntries or kind is Heartbeat:
            leader = self.leaders.get(message.term)
            require(leader == node.node_id, "Election Safety", node, "speaks for term", message.term)
        elif isinstance(message, AppendEntriesReply):
            if message.success:
                self._check_durable(node, message.term, message.match_index)
        elif isinstance(message, RequestVote):
            if not message.pre_vote:
                self._check_vote(node, message.term, node.node_id)
        elif isinstance(message, RequestVoteReply) and message.granted and not message.pre_vote:
            self._check_vote(node, message.term, envelope.to)

    def _check_durable(self, node: "Node", term: int, match_index: int) -> None:
        disk = node.disk
        require(
            disk.hard_state.term >= term, "Persistence", node, "acknowledges in term", term, "not on its disk"
        )
        # A later job of the same sync may have shortened the log again; it was durable all the same.
        if disk.hard_state.term == term:
            require(len(disk.log) >= match_index, "Persistence", node, match_index, "is not on its disk")

    def _check_vote(self, node: "Node", term: int, candidate: int) -> None:
        given = self.votes.setdefault((node.node_id, term), candidate)
        require(given == candidate, "One Vote", node, f"votes for n{candidate} and n{given} in term", term)
        kept = node.disk.hard_state
        require(
            kept.term > term or (kept.term == term and kept.voted_for == candidate),
            "Persistence",
            f"{node} votes for n{candidate} in term {term}, its disk says {kept}",
        )

    def applied(self, node: "Node", entry: Entry, digest: int) -> None:
        view = self.views[node.node_id]
        index = entry.index
        require(index == view.applied_index + 1, "Apply Order", node, index, "after", view.applied_index)
        require(index <= len(self.committed), "State Machine Safety", node, "applies uncommitted", index)
        theirs = self.committed[index - 1]
        require(entry is theirs or entry == theirs, "State Machine Safety", node, entry, "elsewhere", theirs)
        view.applied_index = index
        if index == len(self.digests):
            self.digests.append(digest)
        require(self.digests[index] == digest, "State Machine Safety", node, "differs at", index)

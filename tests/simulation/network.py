"""The fake network: it decides for each message when it arrives, how often, or that it is lost.

It knows nothing of Raft. A link is an ordered pair of nodes; a stream joins two nodes in both directions,
and when it breaks, all that is under way on it is lost.
"""

from collections.abc import Callable
from random import Random

from raftd.core.messages import Message
from tests.simulation.faults import TICK, Mix

Schedule = Callable[[int, int, int, int, Message, int], None]
"""(time, message number, sender, receiver, message, stream epoch)."""


class Network:
    def __init__(self, mix: Mix, random: Random, marks: dict[str, int], schedule: Schedule) -> None:
        self.sent = 0
        self._mix = mix
        self._chance = random.random
        self._marks = marks
        self._schedule = schedule
        size = mix.node_count + 1
        self._cut = [[False] * size for _ in range(size)]
        self._epoch = [[0] * size for _ in range(size)]
        self._last_arrival = [[0] * size for _ in range(size)]
        self._is_cut_anywhere = False

    def calm_down(self, mix: Mix) -> None:
        """From now on the network behaves as `mix` says, and no link is cut."""
        self._mix = mix
        self.heal()

    def cut(self, sender: int, receiver: int) -> None:
        """Messages from `sender` no longer reach `receiver`; the mix says whether those under way do."""
        self._cut[sender][receiver] = True
        self._is_cut_anywhere = True

    def heal(self) -> None:
        for row in self._cut:
            row[:] = [False] * len(row)
        self._is_cut_anywhere = False

    def break_stream(self, first: int, second: int) -> None:
        """What is under way between the two, either way, is lost."""
        self._epoch[first][second] += 1
        self._epoch[second][first] += 1

    def send(self, now: int, sender: int, receiver: int, message: Message) -> None:
        self.sent += 1
        mix = self._mix
        chance = self._chance
        if self._is_cut_anywhere and self._cut[sender][receiver]:
            self._marks["lost to a cut link"] += 1
            return
        if mix.loss and chance() < mix.loss:
            self._marks["lost at random"] += 1
            return
        self._schedule_once(now, sender, receiver, message)
        if mix.duplication and chance() < mix.duplication:
            self._marks["duplicated"] += 1
            self._schedule_once(now, sender, receiver, message)

    def _schedule_once(self, now: int, sender: int, receiver: int, message: Message) -> None:
        mix = self._mix
        chance = self._chance
        arrival = now + mix.delay_min + int(chance() * (mix.delay_max - mix.delay_min))
        last = self._last_arrival[sender]
        if mix.ordered_links:
            arrival = max(arrival, last[receiver])
        else:
            if mix.stragglers and chance() < mix.stragglers:
                self._marks["stragglers"] += 1
                arrival += int(chance() * 4 * mix.election_timeout_ticks * TICK)
            if arrival < last[receiver]:
                self._marks["reordered"] += 1
        if arrival > last[receiver]:
            last[receiver] = arrival
        self._schedule(arrival, self.sent, sender, receiver, message, self._epoch[sender][receiver])

    def arrives(self, sender: int, receiver: int, epoch: int) -> bool:
        """Whether a message that is due now gets through."""
        if self._mix.cut_hits_under_way and self._cut[sender][receiver]:
            self._marks["lost to a cut link"] += 1
            return False
        if self._epoch[sender][receiver] != epoch:
            self._marks["lost to a broken stream"] += 1
            return False
        return True

"""What is done to a leader, and how it is made good again."""

import signal
from typing import Literal, Protocol, get_args

from bench.subject import Subject

FaultName = Literal["kill", "term", "pause", "partition"]
FAULTS: tuple[str, ...] = get_args(FaultName)


class Fault(Protocol):
    """`inject` returns at once; `heal` brings the node back, and waits for as much as it has to."""

    def inject(self, subject: Subject, leader: str) -> None:
        """Raises ClusterFailed if there is nobody to do it to."""

    async def heal(self, subject: Subject, leader: str) -> None:
        """Raises ClusterFailed."""


class Kill:
    """SIGKILL: the process is gone, its connections break, its memory is lost."""

    sent = signal.SIGKILL

    def inject(self, subject: Subject, leader: str) -> None:
        subject.signal(leader, self.sent)

    async def heal(self, subject: Subject, leader: str) -> None:
        await subject.until_gone(leader)
        subject.restart(leader)


class Term(Kill):
    """SIGTERM: an orderly stop, as in an upgrade; a good leader hands over first."""

    sent = signal.SIGTERM


class Pause:
    """SIGSTOP: the process is silent, but its connections stand; it wakes up believing that it leads."""

    def inject(self, subject: Subject, leader: str) -> None:
        subject.signal(leader, signal.SIGSTOP)

    async def heal(self, subject: Subject, leader: str) -> None:
        subject.signal(leader, signal.SIGCONT)

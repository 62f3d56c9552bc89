"""What a run of load consists of: a value that the command line makes and generator processes receive.

Knows nothing of how it is carried out.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

Operation = Literal["put", "get", "mixed", "watch"]
Protocol = Literal["session", "etcd"]
Distribution = Literal["uniform", "zipfian", "sequential"]
Consistency = Literal["linearizable", "serializable"]

PROTOCOLS: tuple[str, ...] = get_args(Protocol)
DISTRIBUTIONS: tuple[str, ...] = get_args(Distribution)
CONSISTENCIES: tuple[str, ...] = get_args(Consistency)


@dataclass(frozen=True, slots=True)
class Workload:
    """Times in seconds. Exactly one of `seconds` and `total` is set. `rate`: operations per second over all
    processes, or None for a closed loop. `clients` and `connections` are those of this process, which is
    number `worker` of `workers`; for the whole run that is 0 of 1. For `watch` the clients are watchers,
    `rate` is that of the one writer, and `token` sets its keys apart from those of other runs."""

    operation: Operation
    endpoints: tuple[str, ...]
    protocol: Protocol = "session"
    clients: int = 1
    connections: int = 1
    seconds: float | None = None
    total: int | None = None
    rate: float | None = None
    value_size: int = 256
    key_space: int = 10_000
    distribution: Distribution = "uniform"
    consistency: Consistency = "linearizable"
    read_ratio: float = 0.5
    warmup_s: float = 0.0
    timeout_s: float = 5.0
    seed: int = 1
    worker: int = 0
    workers: int = 1
    token: str = ""

    def __post_init__(self) -> None:
        assert (self.seconds is None) != (self.total is None), "either seconds or total"
        assert 0 < self.connections <= self.clients, "a connection without a client"

    @property
    def reads_share(self) -> float:
        """Which part of the operations reads."""
        return {"put": 0.0, "get": 1.0, "mixed": self.read_ratio, "watch": 0.0}[self.operation]

    def share(self, worker: int, workers: int) -> "Workload":
        """What process number `worker` of `workers` does of it. There are at least as many clients."""
        assert self.workers == 1, "shared out already"
        clients = _part(self.clients, worker, workers)
        return replace(
            self,
            clients=clients,
            connections=min(clients, max(1, _part(self.connections, worker, workers))),
            total=None if self.total is None else _part(self.total, worker, workers),
            seed=self.seed * workers + worker,
            worker=worker,
            workers=workers,
        )

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Workload":
        return cls(**{**document, "endpoints": tuple(document["endpoints"])})


def _part(whole: int, index: int, parts: int) -> int:
    """The sizes of the parts differ by one at most and add up to the whole."""
    return whole // parts + (index < whole % parts)

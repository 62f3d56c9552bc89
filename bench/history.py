"""Whether a store did to its keys what it told its clients: by every version that each key ever had.

The check is pure; the histories are read with the client library, backwards from revision to revision.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import trio

from bench.config import HISTORY_READERS
from bench.probe import Write
from clientctl.client import Client


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a key."""

    version: int
    create_revision: int
    mod_revision: int
    value: bytes


@dataclass(slots=True)
class Verdict:
    """`problems` is empty when the store kept its word."""

    acknowledged: int = 0
    refused: int = 0
    unknown_done: int = 0
    unknown_not_done: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, other: "Verdict") -> None:
        self.acknowledged += other.acknowledged
        self.refused += other.refused
        self.unknown_done += other.unknown_done
        self.unknown_not_done += other.unknown_not_done
        self.problems += other.problems


def check(writes: Iterable[Write], histories: Mapping[bytes, Sequence[Version]]) -> Verdict:
    """Every acknowledged write is there once, at the revision that its client was told; a write that was
    surely not done is not there; one whose outcome is unknown is there at most once; nothing else is.

    `histories`: the versions of each key, oldest first.
    """
    verdict = Verdict()
    by_key: defaultdict[bytes, list[Write]] = defaultdict(list)
    for write in writes:
        by_key[write.key].append(write)
    for key in by_key.keys() | histories.keys():
        _check_key(key.decode(), by_key[key], histories.get(key, ()), verdict)
    verdict.problems.sort()
    return verdict


def _check_key(key: str, writes: Sequence[Write], history: Sequence[Version], verdict: Verdict) -> None:
    problems = verdict.problems
    if [version.version for version in history] != list(range(1, len(history) + 1)):
        problems.append(f"{key}: the versions are not 1 to {len(history)}")
    if len({version.create_revision for version in history}) > 1:
        problems.append(f"{key}: it was created more than once")
    revisions = {version.value: version.mod_revision for version in history}
    times = Counter(version.value for version in history)
    for write in writes:
        count = times.pop(write.value, 0)
        name = f"{key}: write {write.value.split()[0].decode()}"
        if count > 1:
            problems.append(f"{name} was applied {count} times")
        if write.acknowledged:
            verdict.acknowledged += 1
            if count == 0:
                problems.append(f"{name} was acknowledged and is lost")
            elif count == 1 and revisions[write.value] != write.revision:
                problems.append(
                    f"{name} is at revision {revisions[write.value]}, not at {write.revision} as acknowledged"
                )
        elif write.not_done:
            verdict.refused += 1
            if count:
                problems.append(f"{name} was said to be not done and is there")
        elif count:
            verdict.unknown_done += 1
        else:
            verdict.unknown_not_done += 1
    for value in times:
        problems.append(f"{key}: holds a value that nobody wrote: {value[:20]!r}")


async def read_histories(client: Client, keys: Iterable[bytes]) -> dict[bytes, list[Version]]:
    """All versions of each key, oldest first. Raises clientctl.errors.KeyValueError."""
    histories: dict[bytes, list[Version]] = {}
    limiter = trio.CapacityLimiter(HISTORY_READERS)

    async def read(key: bytes) -> None:
        async with limiter:
            histories[key] = await _read_history(client, key)

    async with trio.open_nursery() as nursery:
        for key in keys:
            nursery.start_soon(read, key)
    return histories


async def _read_history(client: Client, key: bytes) -> list[Version]:
    versions: list[Version] = []
    revision = 0
    while True:
        reply = await client.get(key, revision=revision)
        if not reply.kvs:
            break
        (pair,) = reply.kvs
        versions.append(Version(pair.version, pair.create_revision, pair.mod_revision, pair.value))
        if pair.version == 1:
            break
        revision = pair.mod_revision - 1
    versions.reverse()
    return versions

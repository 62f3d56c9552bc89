"""Whole clusters of the real `raftd.core.Raft` on a fake network, disk and clock: one seed, one history.

No Trio, no thread, no clock: an event heap decides what happens next and one `random.Random` decides
everything else. `python -m tests.simulation --seed N` replays a history; `tests/test_simulation.py` runs
thousands.

    simulation.py   the event loop of one history: time, delivery, writes, clients
    convergence.py  the end phase: heals everything and demands liveness
    campaign.py     many histories: what they saw, and the report of a failure
    node.py         what `raftd.node` is to the core: takes each Ready, writes, sends, applies, serves reads
    disk.py         the log and hard state that survive a crash; writes complete in order, late
    journal.py      what happened last, in the syntax of the golden scripts
    nemesis.py      makes the faults happen, and ends them
    network.py      loss, duplication, delay, reordering, cut links
    faults.py       which faults a seed has, and how often
    checker.py      what must hold after every step
    notation.py     how events and messages read, here and in the golden scripts
    mutants.py      broken variants of the core that the simulation must catch
"""

"""Raft: how nodes agree on one log, as a pure step machine.

This package computes; it never acts. It imports only the standard library, has no clock, no randomness of its
own, no disk, no network and no logging. Time comes in as ticks, randomness as a `random.Random`, and
everything to be done goes out in a `Ready`. Hence one seed gives one history, and a whole cluster runs in
a test.


THE PROTOCOL IN ONE PAGE

Nodes keep a *log* of entries. An entry is *committed* when a majority holds it on disk, and then
*applied*, in order, by each node. Time is cut into *terms*; each term has at most one *leader*, which
alone appends.

Elections (§5.2). A follower that hears nothing from a leader for a random time between one and two election
timeouts first asks whether it would win (PreVote, thesis §9.6). Only when a majority would support it
does it raise its term, vote for itself, write both to disk and ask for votes. A voter supports nobody
while it hears its leader, votes once in a term, and only for a log at least as up-to-date as its own
(§5.4.1). When the stream from the leader breaks, a follower asks within milliseconds instead of waiting;
voters whose own stream broke agree at once. This gives up any lease: nothing may assume that no new
leader comes up within an election timeout.

Replication (§5.3). Each AppendEntries names the entry before its own; a follower whose log differs there
refuses and says where its conflicting term begins, and the leader steps back by whole terms. Once they
agree, appends are sent ahead of their acknowledgements. Entries leave for the followers while the
leader's own disk still writes them; the leader counts itself only when its write is done.

Commitment (§5.4.2). A leader commits by counting only entries of its own term, and thereby all before
them. It therefore opens its term with an empty entry. Followers are told at once.

Reads (thesis §6.4). A read is safe at the leader's commit index once a majority has confirmed, after the read
arrived, that the leader still leads; then the reader waits until that index is applied. Followers ask the
leader.

Giving up. A leader steps down when a majority has been silent for an election timeout (CheckQuorum), when
a newer term appears, or when its disk hangs while a majority's disks go on. It can also hand over (thesis
§3.10).


A WRITE, STEP BY STEP

    leader                                              follower
    propose() ── log.append_new
    ready()   ── messages: AppendEntries ─────────────▶ step() ── log.merge
                 entries ──▶ disk                        ready() ── entries ──▶ disk
                                                                   messages_after_write: AppendEntriesReply
    step()    ◀───────────────────────────────────────────────────────┘
    written() ── advance_commit: a majority holds it
    ready()   ── committed ──▶ apply
                 messages: Heartbeat (commit) ────────▶ step() ── ready() ── committed ──▶ apply


THE FILES, IN READING ORDER

    messages.py   what nodes say to each other
    ready.py      what the outside must do, and in what order
    config.py     every bound and timer
    quorum.py     majorities
    log.py        the log's window in memory, and the marks: applied ≤ committed ≤ last, durable ≤ last
    replica.py    what all roles share: term, vote, log, clock, writes under way, outbox
    progress.py   what a leader knows of one follower
    reads.py      ReadIndex, at the leader and at a follower
    follower.py   the three roles; each holds the state that only it has
    candidate.py
    leader.py
    proposal.py   what becomes of a proposal
    validity.py   what no correct node sends
    status.py     what a node tells about itself
    raft.py       the whole: which role, which handler, which transition

Who changes what: roles change their own state, the log and the outbox; only `Raft` changes the role. A
wrong call by the node is an assertion; a wrong message from a peer is counted and dropped.

Not here: learners, changes of membership, snapshots. Their place is in `Progress` (a third state) and in
`Log` (whose base is where a snapshot would end).
"""

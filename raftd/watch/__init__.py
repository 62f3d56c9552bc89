"""Watches: who wants to see which keys, what each has been shown, and where the events come from.

`hub` is the synchronous heart; `feed` reads events from the store for it, `raftd.services.watch` speaks
etcd's protocol with clients.
"""

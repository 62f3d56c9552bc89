"""Watches through proxyd: one watch at a node for each range, however many clients share it.

`hub` knows who watches what, `upstream` keeps the stream to a node, `catch_up` fetches the past for one
watch, `stream` speaks etcd's protocol with one client.
"""

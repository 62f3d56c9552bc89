"""A program on PyPI's etcd3gw, a client of the JSON gateway; run by `test_gateway.py` in a process of its own
with the gateway's address as argument.
"""

import sys
from itertools import islice

import etcd3gw


def main() -> None:
    host, port = sys.argv[1].split(":")
    client = etcd3gw.client(host=host, port=int(port), timeout=30, api_path="/v3/")
    assert client.status()["version"].split(".")[0] == "3"
    assert sorted(member["name"] for member in client.members()) == ["n1", "n2", "n3"]
    client.put("gw/a", "1")
    assert client.get("gw/a") == [b"1"]
    assert client.get("gw/absent") == []
    assert client.create("gw/b", "2")
    assert not client.create("gw/b", "3")
    assert client.replace("gw/b", "2", "4")
    assert [value for value, _ in client.get_prefix("gw/")] == [b"1", b"4"]
    with_lease(client)
    watch(client)
    with client.lock("gw-lock", ttl=30) as lock:
        assert lock.is_acquired()
    assert client.delete("gw/b")
    assert not client.delete("gw/b")
    client.delete_prefix("gw/")
    assert client.get_prefix("gw/") == []
    sys.stdout.write("done\n")


def with_lease(client: etcd3gw.Etcd3Client) -> None:
    lease = client.lease(ttl=60)
    client.put("gw/leased", "1", lease=lease)
    assert lease.ttl() in range(1, 61)
    assert lease.refresh() == 60
    assert lease.keys() == [b"gw/leased"]
    assert lease.revoke()
    assert client.get("gw/leased") == []


def watch(client: etcd3gw.Etcd3Client) -> None:
    events, cancel = client.watch_prefix("gw/watched/")
    client.put("gw/watched/1", "one")
    client.delete("gw/watched/1")
    put, delete = islice(events, 2)
    cancel()
    assert (put["kv"]["key"], put["kv"]["value"]) == (b"gw/watched/1", b"one")
    assert (delete["type"], delete["kv"]["key"]) == ("DELETE", b"gw/watched/1")


if __name__ == "__main__":
    main()

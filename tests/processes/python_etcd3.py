"""A program on PyPI's etcd3, run by `test_python_etcd3.py` in a process of its own with the endpoint as
argument.

It must not import our `proto`: both define `etcdserverpb`, and protobuf refuses the second.
"""

import sys

import etcd3


def main() -> None:
    host, port = sys.argv[1].split(":")
    prefix = f"/python-etcd3/{port}/"
    client = etcd3.client(host=host, port=int(port), timeout=30)
    client.put(prefix + "a", "1")
    client.put(prefix + "b", "2")
    value, metadata = client.get(prefix + "a")
    assert (value, metadata.version) == (b"1", 1), (value, metadata.version)
    assert client.get(prefix + "absent") == (None, None)
    pairs = [(metadata.key, value) for value, metadata in client.get_prefix(prefix, sort_order="descend")]
    assert pairs == [((prefix + "b").encode(), b"2"), ((prefix + "a").encode(), b"1")], pairs
    assert client.put_if_not_exists(prefix + "c", "3")
    assert not client.put_if_not_exists(prefix + "c", "4")
    assert client.replace(prefix + "c", "3", "5")
    succeeded, responses = client.transaction(
        compare=[
            client.transactions.value(prefix + "c") == "5",
            client.transactions.version(prefix + "a") > 0,
        ],
        success=[client.transactions.put(prefix + "d", "6"), client.transactions.get(prefix + "c")],
        failure=[client.transactions.delete(prefix + "a")],
    )
    assert succeeded, responses
    assert responses[1][0][0] == b"5", responses
    assert client.delete(prefix + "a")
    assert not client.delete(prefix + "a")
    assert client.delete_prefix(prefix).deleted == 3
    assert client.status().leader is not None
    assert sorted(member.name for member in client.members) == ["n1", "n2", "n3"]
    client.close()
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()

"""Put and DeleteRange with their options, and what they report of the versions before."""

from proto.rpc_pb2 import (
    DeleteRangeRequest,
    DeleteRangeResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
)
from tests.kv.replica import Replica


def put(replica: Replica, **fields: object) -> PutResponse:
    response = replica.call(PutRequest(**fields))  # type: ignore[arg-type]
    assert isinstance(response, PutResponse)
    return response


def delete(replica: Replica, **fields: object) -> DeleteRangeResponse:
    response = replica.call(DeleteRangeRequest(**fields))  # type: ignore[arg-type]
    assert isinstance(response, DeleteRangeResponse)
    return response


def value_and_version(replica: Replica, key: bytes) -> tuple[bytes, int]:
    response = replica.call(RangeRequest(key=key))
    assert isinstance(response, RangeResponse)
    return response.kvs[0].value, response.kvs[0].version


def test_ignore_value_makes_a_version_with_the_value_that_is_there() -> None:
    replica = Replica()
    put(replica, key=b"k", value=b"kept")
    response = put(replica, key=b"k", ignore_value=True)
    assert response.header.revision == 3
    assert value_and_version(replica, b"k") == (b"kept", 2)


def test_ignore_lease_takes_the_new_value() -> None:
    replica = Replica()
    put(replica, key=b"k", value=b"old")
    put(replica, key=b"k", value=b"new", ignore_lease=True)
    assert value_and_version(replica, b"k") == (b"new", 2)


def test_prev_kv_is_the_version_before_or_absent() -> None:
    replica = Replica()
    assert not put(replica, key=b"k", value=b"1", prev_kv=True).HasField("prev_kv")
    previous = put(replica, key=b"k", value=b"2", prev_kv=True).prev_kv
    assert (previous.key, previous.value, previous.version, previous.mod_revision) == (b"k", b"1", 1, 2)
    delete(replica, key=b"k")
    assert not put(replica, key=b"k", value=b"3", prev_kv=True).HasField("prev_kv")


def test_a_key_made_anew_begins_at_version_1() -> None:
    replica = Replica()
    for _ in range(3):
        put(replica, key=b"k")
    delete(replica, key=b"k")
    put(replica, key=b"k", value=b"again")
    response = replica.call(RangeRequest(key=b"k"))
    assert isinstance(response, RangeResponse)
    (kv,) = response.kvs
    assert (kv.version, kv.create_revision, kv.mod_revision) == (1, 6, 6)


def test_a_delete_reports_what_it_took_in_order() -> None:
    replica = Replica()
    for key in (b"b", b"a", b"c"):
        put(replica, key=key, value=key * 2)
    response = delete(replica, key=b"a", range_end=b"c", prev_kv=True)
    assert (response.deleted, response.header.revision) == (2, 5)
    assert [(kv.key, kv.value) for kv in response.prev_kvs] == [(b"a", b"aa"), (b"b", b"bb")]
    again = delete(replica, key=b"a", range_end=b"c", prev_kv=True)
    assert (again.deleted, again.header.revision, len(again.prev_kvs)) == (0, 5, 0)


def test_one_revision_however_many_keys_are_deleted() -> None:
    replica = Replica()
    for number in range(50):
        put(replica, key=b"%d" % number)
    assert delete(replica, key=b"\x00", range_end=b"\x00").header.revision == 52
    assert put(replica, key=b"k").header.revision == 53

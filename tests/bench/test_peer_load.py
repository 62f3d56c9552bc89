"""Figures of load generators that are not ours."""

import json

import pytest

from bench.crew import LoadFailed
from bench.peer_load import PeerLoad, parse_benchmark, parse_etcdload

ETCDLOAD = {
    "clients": 64, "errors": {"deadline": 2}, "longest_gap_ms": 20.0, "max_ms": 21.5, "op": "put",
    "ops": 26113, "ops_per_s": 6528.2, "p50_ms": 9.6, "p90_ms": 13.1, "p99_ms": 16.9,
}  # fmt: skip

BENCHMARK = """
Summary:
  Total:	4.5678 secs.
  Slowest:	0.1042 secs.
  Fastest:	0.0011 secs.
  Average:	0.0089 secs.
  Stddev:	0.0037 secs.
  Requests/sec:	2189.2383

Response time histogram:
  0.0011 [1]	|
  0.0114 [9000]	|∎∎∎∎∎∎∎∎∎∎∎∎∎∎

Latency distribution:
  10% in 0.0053 secs.
  50% in 0.0083 secs.
  90% in 0.0131 secs.
  99% in 0.0212 secs.
  99.9% in 0.0712 secs.

Error distribution:
  [3]	rpc error: code = Unavailable desc = etcdserver: leader changed
"""


def test_the_line_of_etcdload_is_read() -> None:
    figures = parse_etcdload("warming up\n" + json.dumps(ETCDLOAD) + "\n")
    assert (figures.operations, figures.ops_per_s) == (26113, 6528.2)
    assert figures.latency_ms == {"p50": 9.6, "p90": 13.1, "p99": 16.9, "p999": None, "max": 21.5}
    assert figures.errors == {"deadline": 2}


def test_the_summary_of_etcds_benchmark_is_read() -> None:
    figures = parse_benchmark(BENCHMARK)
    assert (figures.operations, figures.ops_per_s) == (10_000, 2189.2383)
    latency = {"p50": 8.3, "p90": 13.1, "p99": 21.2, "p999": 71.2, "max": 104.2}
    assert figures.latency_ms == pytest.approx(latency)
    assert figures.errors == {"rpc error: code = Unavailable desc = etcdserver: leader changed": 3}


@pytest.mark.parametrize("output", ["", "hello", "{}", "[1]", '{"ops": "many"}'])
def test_other_output_is_refused(output: str) -> None:
    with pytest.raises(LoadFailed, match="printed no"):
        parse_etcdload(output)
    with pytest.raises(LoadFailed, match="printed no"):
        parse_benchmark(output)


def test_a_missing_program_is_noticed_before_anything_runs() -> None:
    with pytest.raises(LoadFailed, match="no program /nowhere/etcdload"):
        PeerLoad("/nowhere/etcdload -conns 5")

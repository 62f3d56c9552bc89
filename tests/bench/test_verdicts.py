"""From runs to ratios: medians, spreads, and the marks of what limits them."""

from typing import Any

from bench.tables import aligned, markdown
from bench.verdicts import LIMITED_NOTE, OURS_LIMITED_NOTE, cell, notes, ratio, tables

TASK = "put, 64 clients"
WAYS = {"proxy": "raftd via proxyd", "leader": "raftd", "stock": "stock", "etcd": "etcd"}


def run(
    way: str, round_number: int, rate: float, *, generator: str = "python", limited: bool = False
) -> dict[str, Any]:
    return {
        "task": TASK, "what": "put", "clients": 64, "way": way, "round": round_number, "ops_per_s": rate,
        "generator": generator, "limited": limited, "errors": {}, "cpu_s_per_1000": 1000 / rate,
        "latency_ms": {"p50": 64_000 / rate, "p99": None},
        "resident_bytes": 3 << 20, "anonymous_bytes": 1 << 20,
    }  # fmt: skip


def document(runs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"ways": WAYS, "runs": runs, "failover": {}, "idle_cpu_share": {"proxy": 0.05, "etcd": 0.01}}


def test_a_ratio_is_taken_round_by_round() -> None:
    """A machine that was slow for a round was slow for both."""
    ours = [run("proxy", 1, 3000), run("proxy", 2, 300), run("proxy", 3, 2000)]
    theirs = [run("etcd", 1, 1500), run("etcd", 2, 100), run("etcd", 3, 2000)]
    found = ratio(cell(ours, TASK, "proxy"), cell(theirs, TASK, "etcd"))
    assert found is not None
    assert found.text() == "2.00 (1.00–3.00)"


def test_the_peer_gets_the_better_of_two_generators() -> None:
    runs = [
        run("proxy", 1, 4000),
        run("etcd", 1, 1000, limited=True),
        run("etcd", 1, 8000, generator="compiled"),
    ]
    etcd = cell(runs, TASK, "etcd")
    assert etcd is not None
    assert (etcd.generator, etcd.limited, etcd.ops_per_s) == ("compiled", False, 8000)
    found = ratio(cell(runs, TASK, "proxy"), etcd)
    assert found is not None
    assert found.text() == "0.50 (0.50–0.50)"
    assert "8,000 c" in tables(document(runs), aligned)[0][1]


def test_a_ratio_that_python_limited_is_marked_and_the_mark_explained() -> None:
    runs = [run("proxy", 1, 4000, limited=True), run("etcd", 1, 1000, limited=True)]
    shown = tables(document(runs), markdown)[0][1]
    assert "4.00*† (4.00–4.00)" in shown
    found = notes(document(runs))
    assert LIMITED_NOTE in found
    assert OURS_LIMITED_NOTE in found
    fair = document([run("proxy", 1, 4000), run("etcd", 1, 1000)])
    assert LIMITED_NOTE not in notes(fair)


def test_what_was_not_run_is_a_dash() -> None:
    runs = [run("proxy", 1, 4000)]
    assert cell(runs, TASK, "etcd") is None
    assert tables(document(runs), aligned)[0][1].splitlines()[-1].split()[-1] == "–"


def test_errors_are_named_with_where_they_were_met() -> None:
    failing = run("stock", 1, 100)
    failing["errors"] = {"UNAVAILABLE: gone": 3}
    assert f"{TASK}, stock: 3 × UNAVAILABLE: gone" in notes(document([failing]))

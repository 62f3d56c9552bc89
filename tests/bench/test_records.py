"""`cluster.json` is rewritten whole, and only the pid changes when a process is restarted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.layout import LayoutRefused, open_layout, plan
from bench.ports import PortGuard
from bench.records import read_record, record_path, replace_pid, write_record


@pytest.fixture
def guard() -> PortGuard:
    return PortGuard()


def test_the_record_has_the_documented_shape(tmp_path: Path, guard: PortGuard) -> None:
    write_record(tmp_path, plan(tmp_path, open_layout(tmp_path, 3, 1, guard)))
    guard.close()
    document = json.loads(record_path(tmp_path).read_text())
    assert [node["name"] for node in document["nodes"]] == ["n1", "n2", "n3"]
    assert set(document["nodes"][0]) == {"name", "pid", "client_url", "peer_url", "data_dir", "log", "argv"}
    assert set(document["proxies"][0]) == {"name", "pid", "client_url", "log", "argv"}


def test_a_restart_changes_one_pid_and_nothing_else(tmp_path: Path, guard: PortGuard) -> None:
    before = plan(tmp_path, open_layout(tmp_path, 3, 1, guard))
    guard.close()
    write_record(tmp_path, before)
    replace_pid(tmp_path, "n2", 4711)
    replace_pid(tmp_path, "p1", 4712)
    after = read_record(tmp_path)
    assert after.nodes == (before.nodes[0], replace(before.nodes[1], pid=4711), before.nodes[2])
    assert after.proxies == (replace(before.proxies[0], pid=4712),)
    with pytest.raises(KeyError):
        replace_pid(tmp_path, "n9", 1)
    assert [path.name for path in tmp_path.glob(".cluster*")] == []


def test_a_directory_keeps_its_ports_and_its_numbers(tmp_path: Path, guard: PortGuard) -> None:
    first = open_layout(tmp_path, 3, 2, guard)
    guard.close()
    again = PortGuard()
    assert open_layout(tmp_path, None, None, again) == first
    again.close()
    with pytest.raises(LayoutRefused, match="holds a cluster with 3 nodes, not 5"):
        open_layout(tmp_path, 5, None, PortGuard())


def test_a_layout_that_is_not_ours_is_refused(tmp_path: Path, guard: PortGuard) -> None:
    (tmp_path / "layout.json").write_text('{"nodes": 3}')
    with pytest.raises(LayoutRefused, match="not a layout that this program wrote"):
        open_layout(tmp_path, None, None, guard)

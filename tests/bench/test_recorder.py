"""What is made of the times of operations."""

import json
from array import array

from bench.config import ERROR_TEXTS_MAX, OTHER_ERRORS
from bench.recorder import READ, WRITE, Recorder, Recording, merged


def test_the_warm_up_is_dropped_and_the_rest_counts_from_the_begin() -> None:
    recorder = Recorder(10.0, open_loop=False)
    recorder.done(WRITE, 9.0, 9.0, 10.5)
    recorder.failed(9.5, 10.2, "early")
    recorder.done(WRITE, 10.0, 10.0, 10.25)
    recorder.failed(11.0, 11.5, "late")
    recording = recorder.recording
    assert list(recording.ended) == [250_000_000]
    assert list(recording.service) == [250_000_000]
    assert dict(recording.errors) == {"late": 1}
    # The progress line sees the warm-up too.
    interval = recorder.take_interval()
    assert (interval.operations, interval.errors, interval.p99_ms) == (2, 2, 1500.0)
    assert recorder.take_interval().operations == 0


def test_response_time_counts_from_when_it_was_due() -> None:
    recorder = Recorder(0.0, open_loop=True)
    recorder.done(READ, 1.0, 3.0, 3.5)
    assert list(recorder.recording.service) == [500_000_000]
    assert list(recorder.recording.response) == [2_500_000_000]


def test_throughput_counts_what_ended_within_the_window() -> None:
    recorder = Recorder(0.0, open_loop=False)
    for sent, ended in ((0.0, 0.5), (0.5, 1.0), (1.5, 1.999), (1.9, 2.1)):
        recorder.done(WRITE, sent, sent, ended)
    recorder.recording.window_s = 2.0
    assert recorder.recording.completed_in_window == 3
    assert len(recorder.recording) == 4
    assert [point["operations"] for point in recorder.recording.series()] == [1, 2]


def test_the_longest_gap_may_reach_to_either_end() -> None:
    recording = Recording(ended=array("q", [400_000_000, 500_000_000]), window_s=2.0)
    assert recording.longest_gap_s() == 1.5
    assert Recording(window_s=3.0).longest_gap_s() == 3.0


def test_a_series_shows_errors_and_empty_seconds() -> None:
    recorder = Recorder(0.0, open_loop=False)
    recorder.done(WRITE, 0.0, 0.0, 0.01)
    recorder.failed(1.0, 1.5, "no")
    # An operation of the last second may fail after it.
    recorder.failed(2.9, 7.9, "no")
    recorder.recording.window_s = 3.0
    assert recorder.recording.series() == [
        {"second": 0, "operations": 1, "errors": 0, "p50_ms": 10.0, "p99_ms": 10.0},
        {"second": 1, "operations": 0, "errors": 1, "p50_ms": None, "p99_ms": None},
        {"second": 2, "operations": 0, "errors": 1, "p50_ms": None, "p99_ms": None},
    ]


def test_samples_of_processes_are_merged_and_survive_json() -> None:
    recordings = []
    for worker in range(3):
        recorder = Recorder(0.0, open_loop=True)
        recorder.done(READ if worker else WRITE, 0.5, 1.0, 1.0 + worker)
        recorder.failed(0.0, 1.0, f"of {worker % 2}")
        recorder.recording.window_s = 1.0 + worker
        recorder.recording.unsent = worker
        recordings.append(Recording.from_json(json.loads(json.dumps(recorder.recording.to_json()))))
    whole = merged(recordings)
    assert sorted(whole.service) == [0, 1_000_000_000, 2_000_000_000]
    assert list(whole.response_of(WRITE)) == [500_000_000]
    assert list(whole.response_of(READ)) == [1_500_000_000, 2_500_000_000]
    assert (dict(whole.errors), whole.unsent, whole.window_s) == ({"of 0": 2, "of 1": 1}, 3, 3.0)


def test_error_texts_are_bounded_and_none_is_forgotten() -> None:
    recorder = Recorder(0.0, open_loop=False)
    for number in range(ERROR_TEXTS_MAX + 10):
        recorder.failed(1.0, 1.0, f"text {number}")
    recorder.failed(1.0, 1.0, "text 0")
    errors = recorder.recording.errors
    assert len(errors) == ERROR_TEXTS_MAX + 1
    assert errors[OTHER_ERRORS] == 10
    assert errors["text 0"] == 2

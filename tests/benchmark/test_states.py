"""The seven states of a cell, and which of them `run` works on."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.files import write_text
from benchmark.states import STATES, State, failures_without_progress, state_of, summary, to_run
from benchmark.store import Store
from tests.benchmark.sound import sound


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_a_cell_goes_through_its_states(store: Store) -> None:
    assert state_of(store, "cell", "now") == State("missing")
    lease = store.cell_lease("cell")
    assert lease is not None
    assert state_of(store, "cell", "now").name == "running"
    assert "process" in state_of(store, "cell", "now").reason
    write_text(store.cell("cell").last_checkpoint, "weights")
    lease.release()
    assert state_of(store, "cell", "now") == State("preempted")
    store.write_record("cell", sound(state="failed", reason="loss is NaN", steps=10, fingerprint="now"))
    assert state_of(store, "cell", "now") == State("failed", "loss is NaN", failures=1)
    store.write_record("cell", sound(state="suspicious", reason="level 0 is low", fingerprint="now"))
    assert state_of(store, "cell", "now") == State("suspicious", "level 0 is low")
    store.write_record("cell", sound(fingerprint="now"))
    assert state_of(store, "cell", "now") == State("ok")
    assert state_of(store, "cell", "later").name == "stale"
    assert state_of(store, "cell").name == "ok"


def test_a_damaged_record_is_none_and_the_reason_says_so(store: Store) -> None:
    write_text(store.cell("cell").record, '{"state": "o')
    state = state_of(store, "cell", "now")
    assert state.name == "missing"
    assert "record.json cannot be read" in state.reason


def failed(steps: int, fingerprint: str = "now") -> dict[str, object]:
    return {"state": "failed", "steps": steps, "fingerprint": fingerprint}


@pytest.mark.parametrize(
    ("history", "count"),
    [
        ([], 0),
        ([failed(10)], 1),
        ([failed(10), failed(10), failed(5)], 3),
        ([failed(10), failed(20), failed(30)], 1),  # each got further
        ([failed(10), failed(10), {"state": "ok"}, failed(10)], 1),
        ([failed(10, "before"), failed(10, "before"), failed(10)], 1),  # mended since
        ([failed(10), failed(10), failed(10, "before")], 0),
    ],
)
def test_failures_without_progress(history: list[dict[str, object]], count: int) -> None:
    assert failures_without_progress(history, "now") == count


def test_run_takes_what_is_unfinished_and_counts_the_rest() -> None:
    states = {name: State(name) for name in STATES} | {"given up": State("failed", failures=3)}
    chosen = to_run(states)
    assert chosen == ["missing", "running", "preempted", "failed"]
    assert summary(states, chosen) == (
        "to run: 1 missing, 1 running, 1 preempted, 1 failed; "
        "left alone: 1 ok, 1 stale, 1 suspicious, 1 failed 3 times (--only-state failed tries again)"
    )


def test_only_state_chooses_by_name() -> None:
    states = {"a": State("failed", failures=3), "b": State("missing"), "c": State("stale")}
    assert to_run(states, only={"failed"}) == ["a"]
    assert to_run(states, only={"missing", "stale"}) == ["b", "c"]
    assert summary(states, []) == (
        "to run: nothing; left alone: 1 failed 3 times (--only-state failed tries again), 1 missing, 1 stale"
    )

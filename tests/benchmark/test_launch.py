"""The launcher with workers that only pretend: every way to end, kills from outside, and two launchers on one grid."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmark.files import write_text
from benchmark.launch import run_cells
from benchmark.store import Store
from benchmark.workers import THREAD_VARIABLES, auto_jobs, environments
from tests.benchmark.sound import failed, sound

ROOT = Path(__file__).resolve().parents[2]

# A cell's behaviour is the first part of its id. Starts are noted in starts.txt, trainings to the end in trained.txt.
WORKER = """
import os, signal, subprocess, sys, time
from benchmark.files import write_text
from benchmark.store import Store
from benchmark.workers import end_with_launcher, ended_meanwhile
from tests.benchmark.sound import sound

def note(name, text):
    with open(store.results / name, "a") as file:
        file.write(text + "\\n")

end_with_launcher()
store, cell_id = Store(sys.argv[1]), sys.argv[2]
note("starts.txt", cell_id)
behaviour, cell = cell_id.split("-")[0], store.cell(cell_id)
lease = store.cell_lease(cell_id)
if lease is None:
    sys.exit(75)
code = ended_meanwhile(store, cell_id)
if code is not None:
    sys.exit(code)
store.write_progress(cell_id, phase="train", step=0)
print("environment", os.environ["OMP_NUM_THREADS"], os.environ.get("CUDA_VISIBLE_DEVICES"))
step = int(cell.last_checkpoint.read_text()) if cell.last_checkpoint.exists() else 0

def save(step):
    write_text(cell.last_checkpoint, str(step))

def end(state, reason=""):
    note("trained.txt", cell_id)
    store.write_record(cell_id, sound(cell_id, state, reason=reason, steps=step))
    lease.release()
    sys.exit(0 if state == "ok" else 1)

if behaviour == "failed":
    end("failed", "loss is NaN")
if behaviour == "raises":
    raise RuntimeError("a bug before any record")
if behaviour == "unwritable":
    sys.exit(74)
if behaviour == "bus":                        # a write through memory to a full disk
    os.kill(os.getpid(), signal.SIGBUS)
if behaviour == "killed":                     # always at the same place, before any new checkpoint
    os.kill(os.getpid(), signal.SIGKILL)
if behaviour == "slowly":                     # killed five times, but each time a checkpoint further
    if step < 5:
        save(step + 1)
        os.kill(os.getpid(), signal.SIGKILL)
if behaviour == "endless":
    child = subprocess.Popen(["sleep", "100"])
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    note("pids.txt", f"{os.getpid()} {child.pid}")
    while not stop:
        time.sleep(0.02)
    time.sleep(0.1)
    note("children.txt", str(child.poll()))
    save(step + 1)
    sys.exit(75)
if behaviour == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    note("pids.txt", str(os.getpid()))
    time.sleep(100)
if behaviour == "slow":
    time.sleep(0.3)
end("ok")
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    write_text(tmp_path / "worker.py", WORKER)
    return Store(tmp_path / "results")


def command(store: Store) -> Callable[[str], Sequence[str]]:
    script = str(store.results.parent / "worker.py")
    return lambda cell_id: [sys.executable, script, str(store.results), cell_id]


def run(store: Store, cell_ids: Sequence[str], jobs: int = 2, **options: Any) -> tuple[int, list[str]]:
    """The exit code and the lines that were said."""
    store.results.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []
    options = {"failed_record": failed} | options
    code = run_cells(cell_ids, store, jobs, command=command(store), interval=0.5, say=lines.append, **options)
    return code, lines


def launcher_process(store: Store, cell_ids: Sequence[str], grace: float = 20.0) -> subprocess.Popen[str]:
    """A launcher in a process of its own. It hears Ctrl-C even if the tests run in the background, where shells ignore it."""
    store.results.mkdir(parents=True, exist_ok=True)
    code = (
        "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from benchmark.launch import run_cells\nfrom benchmark.store import Store\n"
        "from tests.benchmark.sound import failed\n"
        f"store = Store({str(store.results)!r})\n"
        f"script = {str(store.results.parent / 'worker.py')!r}\n"
        "worker = lambda cell_id: [sys.executable, script, str(store.results), cell_id]\n"
        f"sys.exit(run_cells({list(cell_ids)}, store, 2, failed_record=failed, command=worker, grace={grace}))"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)


def noted(store: Store, name: str) -> list[str]:
    path = store.results / name
    return path.read_text().split("\n")[:-1] if path.exists() else []


def pids(store: Store, count: int) -> list[int]:
    """The processes that workers have noted, once there are lines for `count` workers."""
    return [int(pid) for line in wait_until(lambda: noted(store, "pids.txt"), count) for pid in line.split()]


def wait_until(lines: Callable[[], list[str]], count: int, seconds: float = 60.0) -> list[str]:
    deadline = time.monotonic() + seconds
    while len(lines()) < count:
        assert time.monotonic() < deadline, f"only {lines()} after {seconds} s"
        time.sleep(0.02)
    return lines()


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def reason(store: Store, cell_id: str) -> str:
    record = store.read_record(cell_id)
    assert record is not None
    assert record["state"] == "failed"
    return record["reason"]


def test_all_ok(store: Store) -> None:
    code, lines = run(store, ["ok-1", "ok-2", "ok-3"])
    assert code == 0
    assert sorted(noted(store, "trained.txt")) == ["ok-1", "ok-2", "ok-3"]
    assert "ok-1: started" in lines
    assert lines[-1] == "3/3 done, 0 running, 0 left"
    assert any(line.startswith("ok-2: ok after ") for line in lines)


def test_one_that_fails_stops_nobody(store: Store) -> None:
    code, lines = run(store, ["failed-1", "raises-1", "ok-1"])
    assert code == 1
    assert reason(store, "failed-1") == "loss is NaN"
    expected = "the worker ended with exit code 1 and no record: RuntimeError: a bug before any record"
    assert reason(store, "raises-1") == expected
    assert "a bug before any record" in store.cell("raises-1").log.read_text()
    assert lines[-1] == "1/3 done, 2 not ok, 0 running, 0 left"
    assert len(noted(store, "starts.txt")) == 3


def test_three_ends_by_a_signal_without_a_checkpoint_are_a_failure(store: Store) -> None:
    code, _ = run(store, ["killed-1", "ok-1"])
    assert code == 1
    assert reason(store, "killed-1").startswith("ended by signal 9, probably out of memory; 3 times in a row")
    assert noted(store, "starts.txt").count("killed-1") == 3
    assert noted(store, "trained.txt") == ["ok-1"]


def test_what_a_full_disk_does_to_a_worker_is_its_reason(store: Store) -> None:
    code, _ = run(store, ["unwritable-1", "bus-1"])
    assert code == 1
    assert reason(store, "unwritable-1") == "the worker found no space left, or a read-only file system"
    assert reason(store, "bus-1").startswith(f"ended by signal {signal.SIGBUS.value}, probably a full disk; 3 times")


def test_a_launcher_that_can_write_no_log_has_its_workers_save_and_ends(store: Store) -> None:
    log = store.cell("ok-1").log
    log.parent.mkdir(parents=True)
    log.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):  # of which the command line makes a sentence
        run(store, ["endless-1", "ok-1"])
    assert not [each for each in psutil.process_iter(["cmdline"]) if str(store.results) in (each.info["cmdline"] or [])]
    assert store.read_record("ok-1") is None
    log.unlink()
    assert run(store, ["ok-1"])[0] == 0


def test_a_killed_worker_that_gets_further_is_started_again_and_again(store: Store) -> None:
    code, lines = run(store, ["slowly-1"])
    assert code == 0
    assert noted(store, "starts.txt").count("slowly-1") == 6
    assert "slowly-1: started again (attempt 6)" in lines


def test_the_caller_makes_the_records_that_workers_could_not(store: Store) -> None:
    def failed_record(cell_id: str, reason: str) -> dict[str, Any]:
        return sound(cell_id, "failed", reason=reason, architecture="dit")

    run(store, ["raises-1"], failed_record=failed_record)
    record = store.read_record("raises-1")
    assert record is not None
    assert record["architecture"] == "dit"


def test_a_failed_cell_can_be_run_again(store: Store) -> None:
    store.write_record("ok-1", sound("ok-1", "failed", reason="power cut"))
    code, _ = run(store, ["ok-1"])
    assert code == 0
    assert [record["state"] for record in store.history("ok-1")] == ["failed", "ok"]


def test_a_cell_that_ended_since_it_was_chosen_is_not_run_again(store: Store) -> None:
    store.write_record("ok-1", sound("ok-1"))
    code, _ = run(store, ["ok-1"], ended_before={"ok-1": 0})
    assert code == 0
    assert noted(store, "starts.txt") == []


def test_a_worker_that_comes_late_does_not_train_again(store: Store) -> None:
    """The cell ends elsewhere between the launcher's look and the worker's lease."""
    inner = command(store)

    def slow_start(cell_id: str) -> Sequence[str]:
        store.write_record(cell_id, sound(cell_id))
        return inner(cell_id)

    store.results.mkdir(parents=True)
    assert run_cells(["ok-1"], store, 1, failed_record=failed, command=slow_start, say=lambda line: None) == 0
    assert noted(store, "starts.txt") == ["ok-1"]
    assert noted(store, "trained.txt") == []


def test_a_cell_that_somebody_holds_is_waited_for_and_taken_over(store: Store) -> None:
    first = launcher_process(store, ["endless-1"])
    processes = pids(store, 1)
    second = launcher_process(store, ["endless-1"])
    assert second.stdout is not None
    said = second.stdout.readline()
    assert said.startswith("endless-1: ")
    assert f"process {processes[0]}, for " in said
    first.send_signal(signal.SIGTERM)
    first.communicate(timeout=60)
    assert first.returncode == 75
    pids(store, 2)
    second.send_signal(signal.SIGTERM)
    second.communicate(timeout=60)
    assert second.returncode == 75
    assert store.cell("endless-1").last_checkpoint.read_text() == "2"


def test_being_told_to_stop_saves_and_says_75(store: Store) -> None:
    launcher = launcher_process(store, ["endless-1", "endless-2", "ok-1"])
    processes = pids(store, 2)
    launcher.send_signal(signal.SIGINT)
    said, _ = launcher.communicate(timeout=60)
    assert launcher.returncode == 75
    assert "endless-1: preempted" in said
    assert store.cell("endless-2").last_checkpoint.read_text() == "1"
    assert not any(alive(pid) for pid in processes)
    assert noted(store, "trained.txt") == []
    assert noted(store, "children.txt") == ["None"] * 2  # a compiler may finish: its worker can save only after it


def test_workers_that_do_not_stop_are_killed(store: Store) -> None:
    launcher = launcher_process(store, ["deaf-1"], grace=0.5)
    processes = pids(store, 1)
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate(timeout=60)
    assert launcher.returncode == 75
    assert not any(alive(pid) for pid in processes)


def test_a_killed_launcher_leaves_no_worker_behind(store: Store) -> None:
    launcher = launcher_process(store, ["endless-1", "deaf-1"])
    processes = pids(store, 2)
    assert all(alive(pid) for pid in processes)
    launcher.kill()
    launcher.communicate()
    for _ in range(100):  # 5 s, counted so that a machine that stalls altogether fails nothing
        time.sleep(0.05)
        if not any(alive(pid) for pid in processes):
            break
    assert not any(alive(pid) for pid in processes), "workers outlive their launcher"
    assert store.cell_holder("endless-1") is None


def test_two_launchers_share_a_grid(store: Store) -> None:
    cells = [f"slow-{number}" for number in range(8)]
    launchers = [launcher_process(store, cells) for _ in range(2)]
    for launcher in launchers:
        launcher.communicate(timeout=120)
        assert launcher.returncode == 0
    assert sorted(noted(store, "trained.txt")) == cells
    assert [store.record_count(cell_id) for cell_id in cells] == [1] * len(cells)
    assert [store.history(cell_id)[0]["cell"] for cell_id in cells] == cells


def test_a_worker_finds_its_threads_and_its_gpu(store: Store) -> None:
    run(store, ["ok-1"], jobs=1, threads=3, gpus=["5"])
    assert "environment 3 5" in store.cell("ok-1").log.read_text()
    assert store.cell("ok-1").log.read_text().startswith("--- ")


def test_gpus_are_shared_out() -> None:
    found = environments(4, 2, ["0", "3"])
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["0", "3", "0", "3"]
    assert all(each[name] == "2" for each in found for name in THREAD_VARIABLES)
    assert found[0]["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
    assert len(environments("auto", 1, ["0", "3"])) == 2
    assert "CUDA_VISIBLE_DEVICES" not in environments(1, 1, [])[0]


def test_auto_is_cores_by_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.workers.available_cores", lambda: 8)
    assert [auto_jobs(1), auto_jobs(3), auto_jobs(16)] == [8, 2, 1]


def test_the_machinery_imports_no_torch() -> None:
    modules = ("files", "launch", "leases", "progress", "states", "store", "workers")
    code = "import json, sys\n" + "".join(f"import benchmark.{name}\n" for name in modules)
    code += "print(json.dumps([name for name in ('torch', 'lightning', 'rich', 'pandas') if name in sys.modules]))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert json.loads(found.stdout) == []

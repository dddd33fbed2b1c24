"""Nothing is half there: atomic files, artefacts that survive kills, records."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from benchmark import files
from benchmark.files import DiskFull, ReadOnly, replacing, sweep, write_json, write_text
from benchmark.store import Request, Store
from tests.benchmark.processes import wait_for_line
from tests.benchmark.sound import ROW, sound

# --- files


def test_a_failed_writer_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "old")
    with pytest.raises(KeyError), replacing(path) as aside:
        aside.write_text("half")
        raise KeyError
    assert path.read_text() == "old"
    assert [each.name for each in path.parent.iterdir()] == ["file.txt"]


def test_what_json_cannot_hold_never_reaches_the_disk(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"loss": float("nan"), "shares": (0.5, float("inf"))})
    assert json.loads((tmp_path / "a.json").read_text()) == {"loss": None, "shares": [0.5, None]}
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"object": object()})
    assert json.loads((tmp_path / "a.json").read_text())["loss"] is None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(DiskFull, match=r"no space left to write .*record\.json; free some .* --results"):
        write_text(tmp_path / "record.json", "{}")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_turned_read_only_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files.os, "replace", refused)
    with pytest.raises(ReadOnly, match=r"read-only file system.*record\.json.*run the same command again"):
        write_text(tmp_path / "record.json", "{}")


def test_a_library_that_has_only_words_for_a_full_disk_is_understood(tmp_path: Path) -> None:
    with pytest.raises(DiskFull, match=r"no space left to write .*weights"), replacing(tmp_path / "weights"):
        raise Exception("Error while serializing: I/O error: No space left on device (os error 28)")  # safetensors 0.8
    with pytest.raises(ValueError, match="choose another"), replacing(tmp_path / "weights"):
        raise ValueError(f"{os.strerror(errno.ENOSPC)}: choose another folder")  # wrong input is told by who found it


def test_sweep_removes_litter_only(tmp_path: Path) -> None:
    write_text(tmp_path / "kept.txt", "kept")
    (tmp_path / f"{files.ASIDE}1234-record.json").write_text("half")
    (tmp_path / ".tmpX7aQ0b").write_text("half")  # as safetensors 0.8 leaves it
    sweep(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["kept.txt"]


# --- artefacts


def test_an_artefact_is_built_once(store: Store) -> None:
    built = []

    def builder(folder: Path) -> None:
        built.append(folder)
        (folder / "data.txt").write_text("data")

    assert store.artefact("dataset", "abc") is None
    path = store.build("dataset", "abc", builder, "Shapes2D")
    assert path == store.results / "artefacts" / "dataset" / "abc" == store.artefact("dataset", "abc")
    assert store.build("dataset", "abc", builder, "Shapes2D") == path
    assert [folder.name for folder in built] == ["abc.partial"]
    assert not built[0].exists()


def test_a_builder_that_raises_leaves_its_work_to_the_next(store: Store) -> None:
    def first(folder: Path) -> None:
        (folder / "last.ckpt").write_text("step 100")
        raise ValueError("NaN")

    with pytest.raises(ValueError, match="NaN"):
        store.build("tokenizer", "abc", first, "vq")
    assert store.artefact("tokenizer", "abc") is None
    path = store.build("tokenizer", "abc", lambda folder: None, "vq")
    assert (path / "last.ckpt").read_text() == "step 100"


def test_a_killed_builder_leaves_its_work_to_the_next(
    store: Store, python: Callable[[str], subprocess.Popen[str]], lines: list[str]
) -> None:
    victim = python(
        "import time\nfrom benchmark.store import Store\n"
        "def builder(folder):\n"
        "    (folder / 'last.ckpt').write_text('step 100')\n"
        f"    (folder / '{files.ASIDE}0-weights').write_text('half')\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        f"Store({str(store.results)!r}).build('tokenizer', 'abc', builder, 'vq')"
    )
    wait_for_line(victim, "ready")
    victim.send_signal(signal.SIGKILL)
    while psutil.Process(victim.pid).status() != psutil.STATUS_ZOMBIE:  # as orphans stay in some containers
        time.sleep(0.01)
    seen: list[str] = []

    def builder(folder: Path) -> None:
        seen.extend(sorted(each.name for each in folder.iterdir()))

    path = store.build("tokenizer", "abc", builder, "vq")  # at once, not when the lease has run out
    assert seen == ["last.ckpt"]
    assert (path / "last.ckpt").read_text() == "step 100"
    assert lines == ["resuming tokenizer abc: vq"]


def test_the_first_artefact_wins(store: Store) -> None:
    def overtaken(folder: Path) -> None:
        (folder / "who").write_text("second")
        final = folder.with_name("abc")
        final.mkdir()
        (final / "who").write_text("first")

    path = store.build("dataset", "abc", overtaken, "Shapes2D")
    assert (path / "who").read_text() == "first"
    assert [each.name for each in path.parent.iterdir()] == ["abc"]


def test_what_is_free_is_built_while_others_are_busy(store: Store, lines: list[str]) -> None:
    """One thread holds `busy`; the other builds `free` meanwhile, says whom it waits for, and gets both."""
    order: list[str] = []
    busy, go_on = threading.Event(), threading.Event()

    def slow(folder: Path) -> None:
        busy.set()
        assert go_on.wait(20)
        order.append("busy")

    def quick(folder: Path) -> None:
        order.append("free")
        go_on.set()

    def never(folder: Path) -> None:
        raise AssertionError("built twice")

    other = threading.Thread(target=store.build, args=("tokenizer", "busy", slow, "vq"))
    other.start()
    assert busy.wait(20)
    wanted = [Request("tokenizer", "busy", never, "vq"), Request("tokenizer", "free", quick, "kl")]
    paths = store.build_all(wanted)
    other.join()
    assert [path.name for path in paths] == ["busy", "free"]
    assert order == ["free", "busy"]
    waiting = [line for line in lines if line.startswith("waiting for tokenizer busy (vq)")]
    assert not waiting or f"process {os.getpid()}" in waiting[0]


def test_a_waiter_says_who_builds_and_takes_over_when_they_die(
    store: Store, python: Callable[[str], subprocess.Popen[str]], lines: list[str]
) -> None:
    other = python(
        "import time\nfrom benchmark.store import Store\n"
        f"Store({str(store.results)!r}).build('dataset', 'abc', lambda folder: time.sleep(60), 'Shapes2D')"
    )
    wait_for_line(other, "building")
    threading.Timer(1.0, other.kill).start()
    store.build("dataset", "abc", lambda folder: None, "Shapes2D")
    assert lines[0].startswith("waiting for dataset abc (Shapes2D): ")
    assert f"process {other.pid}, for " in lines[0]
    assert lines[0].endswith(" builds it")
    assert lines[1] == "resuming dataset abc: Shapes2D"


def test_a_full_disk_while_building_is_one_sentence(store: Store) -> None:
    def builder(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFull, match="no space left"):
        store.build("dataset", "abc", builder, "Shapes2D")


# --- records


def test_an_earlier_record_moves_aside(store: Store) -> None:
    assert store.read_record("cell") is None
    for number in range(3):
        assert store.record_count("cell") == number
        store.write_record("cell", sound(number=number))
    assert [record["number"] for record in store.history("cell")] == [0, 1, 2]
    record = store.read_record("cell")
    assert record is not None
    assert record["number"] == 2
    names = sorted(path.name for path in store.cell("cell").folder.iterdir())
    assert names == ["record.1.json", "record.2.json", "record.json"]


def test_killed_while_writing_a_record(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between keeping the old record and putting the new one in place: the old one counts, once."""
    store.write_record("cell", sound(number=0))
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.write_record("cell", sound(number=1))
    monkeypatch.undo()
    assert store.record_count("cell") == 1
    assert store.history("cell") == [sound(number=0)]
    store.write_record("cell", sound(number=2))
    assert store.history("cell") == [sound(number=0), sound(number=2)]


DAMAGED: dict[str, bytes | None] = {  # what is wrong -> what the file holds
    "cut": b'{"cell": "ba',
    "empty": b"",
    "nothing": b"{}",
    "a list": b"[1]",
    "no text": b"\xff\xfe\x00",
    "no row": json.dumps({"cell": "bad", "state": "ok"}).encode(),
    "a state alone": b'{"state": "ok"}',
    "a state that is none": json.dumps(sound("bad", "okay")).encode(),
    "another cell's": json.dumps(sound("good")).encode(),
    "a row of nothing": json.dumps(sound("bad", row={})).encode(),
    "a row without a seed": json.dumps(sound("bad", row={**ROW, "seed": None})).encode(),
    "a config of nothing": json.dumps(sound("bad", config={})).encode(),
    "a folder": None,
}


def damage(path: Path, content: bytes | None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if content is None else path.write_bytes(content)


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_record_is_a_line_and_not_the_end(
    store: Store, content: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write_record("good", sound("good"))
    path = store.cell("bad").record
    damage(path, content)
    for _ in range(2):  # a command may read them more than once
        assert [record["cell"] for record in store.records()] == ["good"]
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith(f"left out: {path} cannot be read") and "run --cell bad" in captured.err


def test_a_folder_in_a_records_place_is_moved_out_of_its_way(store: Store) -> None:
    path = store.cell("cell").record
    path.mkdir(parents=True)
    (path / "note.txt").write_text("somebody's")
    store.write_record("cell", sound())
    assert store.read_record("cell") == sound() and store.history("cell") == [sound()]
    assert (path.with_name("record.1.json") / "note.txt").read_text() == "somebody's"


def test_starting_over_forgets_checkpoints_and_keeps_records(store: Store) -> None:
    cell = store.cell("cell")
    store.write_record("cell", sound())
    write_text(cell.last_checkpoint, "weights")
    write_text(cell.curve, "step")
    store.write_progress("cell", phase="train")
    store.start_over("cell")
    assert sorted(path.name for path in cell.folder.iterdir()) == ["record.json"]


def test_a_cell_that_is_done_again_starts_over_once(store: Store) -> None:
    """Cut off, it goes on from its own checkpoint; made with other sources, or asked for once more, it starts over."""
    cell = store.cell("cell")
    store.write_record("cell", sound())

    def begun(fingerprint: str) -> bool:
        """Whether it starts from nothing; then leave a checkpoint."""
        store.begin_again("cell", fingerprint)
        fresh = not cell.last_checkpoint.exists()
        write_text(cell.last_checkpoint, "weights")
        return fresh

    assert [begun("now") for _ in range(3)] == [True, False, False]
    assert [begun("edited") for _ in range(2)] == [True, False]
    store.write_record("cell", sound())
    assert [begun("edited") for _ in range(2)] == [True, False]
    cell.again.write_text("{")
    assert begun("edited")


@pytest.mark.parametrize(
    ("phase", "steps"), [("training", 70), ("judging", 70), ("training the tokenizer", 0), ("", 0)]
)
def test_only_a_cells_own_steps_are_its_progress(store: Store, phase: str, steps: int) -> None:
    store.write_progress("cell", phase=phase, step=70)
    assert store.steps_trained("cell") == steps
    assert store.steps_trained("absent") == 0

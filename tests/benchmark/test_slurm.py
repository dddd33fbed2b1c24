"""Submitting to SLURM, with fake commands that note how they are called; a real cluster is another test's business."""

import json
import os
import random
import re
import stat
from pathlib import Path

import pytest

from benchmark import slurm, submission
from benchmark.cli import main
from benchmark.machine import this_machine
from benchmark.plan import plan_cells
from benchmark.registry import discover
from benchmark.slurm import Group, Job, SlurmConfig
from benchmark.states import FAILED
from benchmark.store import Store

SMOKE = ("run", "--slurm", "--preset", "smoke", "--only", "dataset=shapes2d", "slurm.gpus=0", "slurm.cpus_per_task=2")


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for a cluster: what sbatch was told in `calls`, the queue in `queue`."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    (folder / "queue").touch()
    commands = {
        "sbatch": 'n=$(cat calls 2>/dev/null | grep -c sbatch); echo "sbatch $*" >> calls; echo $((100 + n))',
        "squeue": "cat queue",
        "scancel": 'echo "scancel $*" >> calls',
        "scontrol": "echo MaxArraySize = 4",
    }
    for name, body in commands.items():
        path = folder / name
        path.write_text(f"#!/bin/bash\ncd {folder}\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def calls(cluster: Path) -> list[str]:
    path = cluster / "calls"
    return path.read_text().splitlines() if path.exists() else []


def arrays(results: Path) -> list[dict]:
    return slurm.submissions(results)


def test_artefacts_come_first_and_arrays_are_cut_at_the_clusters_limit(cluster, tmp_path):
    assert main([*SMOKE, "--results", str(tmp_path / "r")]) == 0
    sent = calls(cluster)
    assert len(sent) == 3  # artefacts, three cells, two cells: an index must stay below MaxArraySize
    assert "--dependency" not in sent[0] and sent[0].endswith("artefacts-0.sh")
    for call in sent[1:]:
        assert "--dependency=afterok:100 --kill-on-invalid-dep=yes" in call
    submitted = arrays(tmp_path / "r")
    assert [len(array["cells"]) for array in submitted] == [1, 3, 2]
    for array in submitted:
        script = next((tmp_path / "r" / "slurm").glob(f"*/{array['name']}.sh"))
        assert script.with_suffix(".txt").read_text().split() == array["cells"]
        assert f"#SBATCH --array=0-{len(array['cells']) - 1}%" in script.read_text()
        assert all((tmp_path / "r" / "cells" / cell / "config.yaml").exists() for cell in array["cells"])


def test_a_script_tells_srun_everything_and_takes_nothing_from_the_shell(tmp_path):
    config = SlurmConfig(
        partition="gpu",
        gpus=2,
        gpu_request="--gpus-per-node={gpus}",
        setup=["module load cuda"],
        launcher="apptainer exec image.sif",
        python="/opt/python",
        extra=["--account=vision"],
    )
    job = slurm.make_jobs(tmp_path, [Group(("a", "b"))], Store(tmp_path), config, ["--plugin", "/x y.py"])[0]
    for line in ("--partition=gpu", "--gpus-per-node=2", "--account=vision", "--export=NONE", "--signal=USR1@120"):
        assert f"#SBATCH {line}\n" in job.text
    assert "#SBATCH --requeue\n" in job.text and "scontrol requeue" in job.text
    assert "\nmodule load cuda\n" in job.text
    assert (
        "srun --ntasks=1 --cpus-per-task=8 --kill-on-bad-exit=1 --export=ALL apptainer exec image.sif /opt/python -m bench"
        in job.text
    )
    assert '--cell "$cell"' in job.text and "--plugin '/x y.py'" in job.text
    asked = slurm.make_jobs(tmp_path, [Group(("a",), build=True)], Store(tmp_path), config, only_states=("stale",))
    build, cells = (job.text for job in asked)
    assert "--only-state" not in build
    assert "run --only-state missing,preempted,running,stale --cell" in cells
    forbidden = slurm.make_jobs(tmp_path, [Group(("a",))], Store(tmp_path), SlurmConfig(requeue=False))[0].text
    assert "#SBATCH --no-requeue\n" in forbidden and "scontrol" not in forbidden


def test_a_cell_of_several_devices_is_a_step_of_as_many_tasks_that_meet_at_one_port(tmp_path):
    group, config = Group(("a",), devices=4, nodes=2), SlurmConfig(cpus_per_task=3, python="/opt/python")
    text = slurm.make_jobs(tmp_path, [group], Store(tmp_path), config)[0].text
    for line in ("--nodes=2", "--ntasks-per-node=4", "--gres=gpu:4"):
        assert f"#SBATCH {line}\n" in text
    assert (
        "\nsrun --ntasks=8 --cpus-per-task=3 --kill-on-bad-exit=1 --export=ALL /opt/python -m benchmark run --cell"
        in text
    )
    assert "\nexport MASTER_PORT=$(/opt/python -m benchmark.ranks)" in text
    assert (
        'if [ "$code" = 75 ] || [ "$code" -gt 128 ]; then' in text
    )  # one killed: srun kills all, and the cell goes on
    alone = slurm.make_jobs(tmp_path, [Group(("a",))], Store(tmp_path), config)[0].text
    assert "MASTER_PORT" not in alone and "-gt 128" not in alone and "--gres=gpu:1" in alone


def test_cells_of_another_number_of_devices_are_an_array_of_their_own(cluster, tmp_path):
    results = tmp_path / "r"
    assert main([*SMOKE, "--results", str(results), "--only", "architecture=dit"]) == 0
    assert main([*SMOKE, "--results", str(results), "--only", "architecture=dit", "trainer.devices=2"]) == 0
    one, two = (array for array in arrays(results) if array["name"].startswith("cells"))
    assert one["cells"] != two["cells"]
    scripts = [path.read_text() for path in sorted((results / "slurm").glob("*/cells-*.sh"))]
    assert sorted("--ntasks-per-node=2" in script for script in scripts) == [False, True]


def test_nothing_to_submit_is_shared_out_among_no_arrays():
    assert slurm.shared_out([], 8) == []


def most_at_once(jobs: list[Job], order: random.Random) -> int:
    """Run jobs as SLURM would, tasks ending in any order; the most that were running at once."""
    limit = {job.name: int(re.search(r"--array=0-\d+%(\d+)", job.text).group(1)) for job in jobs}
    left, running, most = {job.name: len(job.cells) for job in jobs}, [], 0
    while any(left.values()) or running:
        for job in jobs:
            waits = any(left.get(name, 0) or name in running for name in (job.after, job.behind))
            while not waits and left[job.name] and running.count(job.name) < limit[job.name]:
                left[job.name] -= 1
                running.append(job.name)
        assert running, "nothing can begin"
        most = max(most, len(running))
        running.remove(order.choice(running))
    return most


@pytest.mark.parametrize("seed", range(20))
def test_a_submission_never_has_more_running_than_it_may(tmp_path, seed):
    order = random.Random(seed)
    sizes = [order.randint(1, 30) for _ in range(order.randint(1, 6))]
    groups = [Group(tuple(f"{g}-{i}" for i in range(size)), bool(order.getrandbits(1))) for g, size in enumerate(sizes)]
    config = SlurmConfig(max_running=order.choice([1, 2, 3, 8, 40]))
    jobs = slurm.make_jobs(tmp_path, groups, Store(tmp_path), config, array_size=7)
    assert sorted(cell for job in jobs if job.name.startswith("cells") for cell in job.cells) == sorted(
        cell for group in groups for cell in group.cells
    )
    assert most_at_once(jobs, order) <= config.max_running


def test_arrays_get_places_by_their_size():
    assert slurm.shared_out([30, 10], 8) == [6, 2]
    assert slurm.shared_out([100, 1, 1], 5) == [3, 1, 1]
    assert slurm.shared_out([2, 3], 32) == [2, 3]
    assert slurm.shared_out([5, 5, 5], 2) == [1, 1, 1]  # more than there are places: the last one waits for another


def test_what_takes_the_same_place_waits_however_the_other_ends(cluster, tmp_path):
    assert main([*SMOKE, "--results", str(tmp_path / "r"), "slurm.max_running=1"]) == 0
    _, first, second = calls(cluster)
    assert "--dependency=afterok:100 " in first
    assert "--dependency=afterok:100,afterany:101 --kill-on-invalid-dep=yes" in second


def test_a_second_submission_sends_only_what_is_neither_done_nor_queued(cluster, tmp_path, capsys):
    results = tmp_path / "r"
    assert main([*SMOKE, "--results", str(results)]) == 0
    first = arrays(results)
    cells = first[1]["cells"]
    (cluster / "queue").write_text("101|0|RUNNING|None\n101|1|PENDING|Resources\n7|0|PENDING|of somebody else\n")
    capsys.readouterr()
    assert main(["status", "--results", str(results), "--format", "json"]) == 0
    reasons = {row["cell"]: row["reason"] for row in json.loads(capsys.readouterr().out)}
    assert reasons[cells[0]] == "running in job 101_0"
    assert reasons[cells[1]] == "pending in job 101_1 (Resources)"
    assert main([*SMOKE, "--results", str(results)]) == 0
    later = [array for array in arrays(results) if array not in first]  # of one second, they come in any order
    again = [cell for array in later if array["name"].startswith("cells") for cell in array["cells"]]
    assert len(again) == 3 and not set(again) & set(cells[:2])


def test_cancel_ends_our_jobs_only(cluster, tmp_path, capsys):
    results = tmp_path / "r"
    main([*SMOKE, "--results", str(results)])
    (cluster / "queue").write_text("101|0|RUNNING|None\n7|0|PENDING|of somebody else\n")
    assert main(["cancel", "--results", str(results)]) == 0
    assert [call for call in calls(cluster) if call.startswith("scancel")] == ["scancel 101"]


def test_a_dry_run_prints_and_does_nothing(cluster, tmp_path, capsys):
    results = tmp_path / "r"
    assert main([*SMOKE, "--dry-run", "--results", str(results)]) == 0
    assert "#SBATCH --array=0-4%" in capsys.readouterr().out
    assert calls(cluster) == [] and not (results / "slurm").exists() and not (results / "cells").exists()


def test_a_dry_run_without_slurm_is_refused_and_trains_nothing(tmp_path, capsys):
    assert main(["run", "--dry-run", "--preset", "smoke", "--results", str(tmp_path / "r")]) == 2
    assert "`plan` shows" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_what_is_wrong_is_said_before_anything_is_written(tmp_path, monkeypatch, capsys, cluster):
    results = tmp_path / "r"
    for wrong, message in (
        ("slurm.partiton=x", "did you mean 'slurm.partition'"),
        ("slurm.gpus=-1", "slurm.gpus=-1 must be at least 0"),
        ("slurm.extra=[account]", "slurm.extra: account is no option of sbatch"),
    ):
        assert main([*SMOKE, "--results", str(results), wrong]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setenv("PATH", "/nowhere")
    assert main([*SMOKE, "--results", str(results)]) == 2
    assert "submit from a login node" in capsys.readouterr().err
    assert not (results / "slurm").exists()


def test_slurm_settings_change_no_cell(cluster, tmp_path):
    for name, more in (("a", []), ("b", ["slurm.time=01:00:00"])):
        assert main([*SMOKE, "--results", str(tmp_path / name), *more]) == 0
    assert [a["cells"] for a in arrays(tmp_path / "a")] == [b["cells"] for b in arrays(tmp_path / "b")]


def test_a_cell_that_never_gets_further_is_given_up_with_the_reason(cluster, tmp_path):
    results = tmp_path / "r"
    main([*SMOKE, "--results", str(results)])
    name = arrays(results)[1]["cells"][0]
    plan = plan_cells(Store(results), discover(), this_machine(), [name])
    cell = plan.store.cell(name)
    assert not any(submission.given_up(plan, name) for _ in range(2))
    cell.checkpoints.mkdir()
    cell.last_checkpoint.touch()  # progress: counted anew
    assert not any(submission.given_up(plan, name) for _ in range(3))
    assert submission.given_up(plan, name)
    record = plan.store.read_record(name)
    assert record is not None and record["state"] == FAILED and "raise slurm.time" in record["reason"]

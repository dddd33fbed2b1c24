"""The command line: where tokens belong, exit codes, one-sentence errors, and that it answers without torch."""

import errno
import json
import os
import subprocess
import sys

import pytest

from benchmark import ROOT, commands, launch
from benchmark.cli import build_parser, main, split_tokens
from benchmark.config import Override
from tests.benchmark.commandline import fails, run

VALUES = frozenset({"--grid", "--preset", "--results"})


# Tokens --------------------------------------------------------------------------------------------


def keys(tokens) -> list[str]:
    return [f"{override.key}={override.text}" for override in tokens.overrides]


def test_both_orders_of_only_and_overrides_mean_the_same():
    one = split_tokens(["run", "--only", "architecture=dit", "seed=3", "trainer.max_steps=5"], VALUES)
    other = split_tokens(["run", "trainer.max_steps=5", "--only", "architecture=dit", "seed=3"], VALUES)
    for tokens in (one, other):
        assert tokens.only == ["architecture=dit", "seed=3"] and keys(tokens) == ["trainer.max_steps=5"]
        assert tokens.options == ["run"]


def test_a_dotted_token_ends_only():
    tokens = split_tokens(["--only", "architecture=dit", "optimiser.lr=1", "seed=3"], VALUES)
    assert tokens.only == ["architecture=dit"] and keys(tokens) == ["optimiser.lr=1", "seed=3"]


def test_an_option_ends_only():
    tokens = split_tokens(["--only", "architecture=dit", "--preset", "smoke", "seed=3"], VALUES)
    assert tokens.only == ["architecture=dit"] and keys(tokens) == ["seed=3"]
    assert tokens.options == ["--preset", "smoke"]


def test_values_of_options_may_hold_an_equals_sign():
    tokens = split_tokens(["--results", "a=b", "--results=c=d", "seed=1"], VALUES)
    assert tokens.options == ["--results", "a=b", "--results=c=d"] and keys(tokens) == ["seed=1"]


def test_an_override_stands_wherever_it_stands():
    tokens = split_tokens(["seed=1", "run", "split.train=000,011", "--grid", "all", "slurm.time=12:00:00"], VALUES)
    assert keys(tokens) == ["seed=1", "split.train=000,011", "slurm.time=12:00:00"]
    assert Override.parse("a.b=c=d") == Override("a.b", "c=d")


def test_only_with_an_equals_sign():
    assert split_tokens(["--only=tokenizer=kl", "seed=2"], VALUES).only == ["tokenizer=kl", "seed=2"]


# Wrong input ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["rnu"], "did you mean 'run'"),
        (["run", "--grid", "al"], "did you mean 'all'"),
        (["run", "--preset", "laptob"], "did you mean 'laptop'"),
        (["run", "--jbos", "2"], "did you mean '--jobs'"),
        (["run", "--only", "architecture=dti"], "did you mean 'dit'"),
        (["run", "--only", "dataset=shapes3d"], "did you mean 'shapes2d'"),
        (["run", "trainer.max_step=3"], "did you mean 'trainer.max_steps'"),
        (["run", "trainer.max_steps=many"], "whole number"),
        (["run", "architecture=dit"], "--only architecture=dit"),
        (["run", "extra"], "knows no 'extra'"),
        (["run", "--jobs", "0"], "--jobs 0"),
        (["run", "--seeds", "0"], "--seeds 0 must be at least 1"),
        (["run", "--seeds", "1001"], "--seeds 1001 must be at most 1000"),
        (["plan", "--seeds", "999999999"], "must be at most 1000"),
        (["run", "--cell", "x", "--seeds", "5"], "leave --preset, --only, --seeds and KEY=VALUE out"),
        (["plan", "--only", "seed=9", "--seeds", "3"], "leave one of them out"),
        (["run", "--seeds", "3", "--only", "architecture=dit", "seed=0,1"], "leave one of them out"),
        (["prepare", "--dataset", "clevrer_kubric", "--compare-renderers", "0"], "--compare-renderers 0 must be"),
        (["run", "--only-state", "fail"], "did you mean 'failed'"),
        (["run", "--cell", "nothing"], "no cell nothing"),
        (["run", "--cell", "x", "seed=1"], "leave --preset, --only, --seeds and KEY=VALUE out"),
        (["run", "--preset", "laptop", "dataset.shapes2d.resolution=36"], "36x36"),
        (["plan", "--plugin", "absent.py"], "absent.py"),
        (["plan", "--format", "xls"], "no format 'xls'"),
        (["leaderboard", "seed=1"], "takes no KEY=VALUE"),
        (["evaluate", "--cell", "nothing"], "no cell nothing"),
        (["evaluate", "--cell", "nothing", "--name", "../record"], "--name '../record' is no name"),
        (["evaluate", "--cell", "nothing", "--name", ".hidden"], "is no name: use up to 200 letters"),
        (["evaluate", "--cell", "nothing", "--name", "a" * 201], "use up to 200 letters"),
        (["evaluate", "--cell", "../cells/nothing"], "--cell '../cells/nothing' is no name"),
        (["run", "--cell", ""], "--cell '' is no name"),
        (["status", "--cell", ".."], "--cell '..' is no name"),
        (["prepare", "--cell", "/etc"], "--cell '/etc' is no name"),
        (["plan", "--cell", "shapes2d-dit-vq-full+dropout-s0-3f9a1c27"], "no cell shapes2d-dit-vq-full+dropout"),
    ],
)
def test_wrong_input_is_told_in_a_sentence_before_any_work(capsys, results, argv, message):
    assert message in fails(capsys, *argv, "--results", str(results))
    assert not (results / "cells").exists()


def test_a_full_disk_is_told_before_any_work(capsys, results, monkeypatch):
    monkeypatch.setattr("benchmark.plan.Plan.free", lambda self: 10)
    assert "make room" in fails(capsys, "run", "--preset", "smoke", "--results", str(results))


def test_missing_values_are_argparses_business(capsys):
    assert main(["run", "--grid"]) == 2
    assert main(["run", "--seeds", "x"]) == 2
    assert main([]) == 2
    assert main(["--help"]) == 0


# Commands ------------------------------------------------------------------------------------------


def test_plan_shows_every_cell_with_state_estimate_and_basis(capsys, results):
    assert main(["plan", "--preset", "smoke", "--seeds", "2", "--results", str(results)]) == 0
    out = capsys.readouterr().out
    for name in ("maskgit", "maskgit-jepa", "givt", "mar", "dit"):
        assert f"shapes2d-{name}-vq-full-s1-" in out and f"clevrer_kubric-{name}-vq-full-s1-" in out
        assert f"celeba-drawn-{name}-vq-full-s1-" in out  # there are no real ones here
    for word in ("preset    smoke", "device", "cells     30: 30 missing", "estimate", "constant", "disk", str(results)):
        assert word in out
    assert not results.exists()  # nothing is written


def test_plan_says_why_auto_chose_its_preset(capsys, results):
    assert main(["plan", "--results", str(results)]) == 0
    assert "(auto: there is" in capsys.readouterr().out


def test_plan_as_json(capsys, results):
    assert main(["plan", "--preset", "smoke", "--format", "json", "--results", str(results)]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["state"] for row in rows} == {"missing"} and all(row["minutes"] > 0 for row in rows)


@pytest.mark.parametrize("form", [(), ("--format", "json")])
def test_plan_lists_the_cells_of_the_states_that_were_asked_for(capsys, results, launched, form):
    main(run(results, "--only", "architecture=dit,givt"))
    capsys.readouterr()
    plan = ["plan", *run(results, "--only", "architecture=dit,givt,mar")[1:], *form]
    for states, listed in (("failed", {"givt"}), ("missing,ok", {"dit", "mar"}), ("stale", set())):
        assert main([*plan, "--only-state", states]) == 0
        out = capsys.readouterr().out
        assert {name for name in ("dit", "givt", "mar") if f"shapes2d-{name}-vq-full-s0-" in out} == listed


def test_status_of_more_seeds_tells_those_that_are_missing(capsys, results, launched):
    main(run(results, "--only", "architecture=dit"))
    capsys.readouterr()
    assert main(["status", "--seeds", "2", "--format", "json", "--results", str(results)]) == 0
    assert {row["cell"].split("-s")[1][0] for row in json.loads(capsys.readouterr().out)} == {"0", "1"}


def test_a_help_keeps_its_names(capsys):
    assert main(["cancel", "--help"]) == 0
    assert "Cancel what is left in SLURM's queue" in capsys.readouterr().out


def test_run_writes_configs_launches_and_derives_the_leaderboard(capsys, results, launched):
    assert main(run(results, "--only", "architecture=dit,mar", "--jobs", "2")) == 0
    (asked,) = launched
    assert asked["jobs"] == 2 and asked["threads"] == 1 and len(asked["cells"]) == 2
    table = (results / "leaderboard.csv").read_text()
    assert all(name in table for name in asked["cells"])
    lines = capsys.readouterr().out.splitlines()
    for line, start in zip(lines, ("preset", "device", "cells", "estimate", "disk", "results"), strict=False):
        assert line.startswith(start)


def test_a_run_that_was_cut_off_names_only_what_it_wrote(capsys, results, monkeypatch):
    monkeypatch.setattr(launch, "run_cells", lambda *_, **options: 75)
    assert main(run(results, "--only", "architecture=dit")) == 75
    *_, told, written = capsys.readouterr().out.splitlines()
    assert "no cell has ended yet" in told
    assert [(results / name).exists() for name in written.rpartition("/")[2].split(", ")] == [True, True]


@pytest.mark.parametrize(
    ("number", "sentence"), [(errno.ENOSPC, "no space left to write"), (errno.EROFS, "read-only file system")]
)
def test_a_disk_that_refuses_in_the_middle_is_one_sentence(capsys, results, monkeypatch, number, sentence):
    def refused(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(launch, "run_cells", refused)
    assert main(run(results, "--only", "architecture=dit")) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1 and sentence in told
    assert str(results) in told and "run the same command again" in told
    monkeypatch.setenv("BENCHMARK_LAUNCHER", "pipe")  # a worker says it by its exit code: its log is on that disk
    monkeypatch.setattr("sys.stderr.write", refused)
    assert main(run(results, "--only", "architecture=dit")) == 74


def test_one_failed_cell_gives_exit_code_1_and_the_rest_is_kept(capsys, results, launched):
    assert main(run(results)) == 1
    assert main(["status", "--results", str(results), "--format", "json"]) == 0
    out = capsys.readouterr().out
    states = {row["cell"].split("-")[1]: row for row in json.loads(out[out.rindex("[\n") :])}
    assert states["givt"]["state"] == "failed" and states["givt"]["reason"] == "the loss became nan"
    assert states["dit"]["state"] == "ok"


def test_finished_cells_are_not_run_again_and_failed_ones_are(results, launched):
    main(run(results))
    assert main(run(results)) == 1
    assert [name.split("-")[1] for name in launched[1]["cells"]] == ["givt"]
    assert main(run(results, "--only", "architecture=dit")) == 0
    assert len(launched) == 2  # nothing to launch


def test_states_select_what_is_run(results, launched):
    main(run(results))
    main(run(results, "--only-state", "ok"))
    assert len(launched[1]["cells"]) == 4


def test_a_cell_is_run_from_what_was_written(results, launched):
    main(run(results, "--only", "architecture=givt"))
    (name,) = launched[0]["cells"]
    assert main(["run", "--cell", name, "--results", str(results)]) == 1
    assert launched[1]["cells"] == [name]


def test_workers_get_the_plugins(capsys, results, launched, tmp_path):
    plugin = tmp_path / "toy.py"
    plugin.write_text((ROOT / "architectures" / "dit.py").read_text().replace('"dit"', '"toy"'))
    assert main(run(results, "--only", "architecture=toy", "--plugin", str(plugin))) == 0
    capsys.readouterr()
    assert launched[0]["extra_args"] == ["--plugin", str(plugin)]
    (name,) = launched[0]["cells"]
    assert "no architecture 'toy'" in fails(capsys, "run", "--cell", name, "--results", str(results))


def test_evaluate_takes_only_what_can_change_after_training(capsys, results, launched):
    main(run(results, "--only", "architecture=dit"))
    capsys.readouterr()
    (name,) = launched[0]["cells"]
    message = fails(capsys, "evaluate", "--cell", name, "--results", str(results), "trunk.depth=3")
    assert "fixed when the cell was trained" in message


def test_leaderboard_without_records_says_so(capsys, results):
    results.mkdir()
    assert main(["leaderboard", "--results", str(results)]) == 0
    assert "no records" in capsys.readouterr().out


def test_every_command_has_a_function_and_a_help():
    parser = build_parser()
    names = next(action for action in parser._actions if action.dest == "command").choices
    assert all(callable(getattr(commands, name)) for name in names)
    assert set(names) == {"run", "plan", "status", "leaderboard", "evaluate", "prepare", "cancel"} | {
        "claims",
        "report",
        "speed",
    }


# Without torch -------------------------------------------------------------------------------------

LIGHT = [
    ["--help"],
    ["run", "--help"],
    ["leaderboard"],
    ["status"],
    ["plan", "--preset", "smoke"],
    ["rnu"],
    ["run", "--grid", "al"],
    ["run", "--preset", "x"],
    ["run", "--nothing"],
    ["run", "--only", "architecture=dti"],
    ["run", "trainer.max_step=3"],
    ["speed", "--only", "architecture=dti"],
]


@pytest.mark.parametrize("argv", LIGHT, ids=" ".join)
def test_answers_without_importing_torch_or_lightning(tmp_path, argv):
    code = (
        "import sys; from benchmark.cli import main; main(sys.argv[1:]); "
        "heavy = {'torch', 'lightning', 'pandas', 'matplotlib'} & set(sys.modules); "
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code, *argv]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr

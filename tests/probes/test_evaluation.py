"""Evaluation: shares are what one counts by hand, can be rebuilt from the disk, and tell obedience from chance."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from probes.evaluation import (
    MODES,
    EvaluationConfig,
    Evaluator,
    accuracy,
    as_bytes,
    ask,
    level_shares,
    scores,
    write_evaluations,
)
from probes.judgement import Reason

TRAIN = ("000", "001", "010", "100")  # h32: levels 0 0 0 1 0 1 1 2 of 000 to 111


@pytest.fixture
def evaluator(laptop) -> Evaluator:
    return Evaluator(laptop.space, [laptop.judge], laptop.data.draw_values, max_batch=20)


# -- tables made by hand ----------------------------------------------------------------------------------------------


@pytest.fixture
def by_hand(space, scripted, seeded):
    """Sixteen samples, four a composition of 00, 01, 10, 11, read by a judge that rejects and one that cannot."""
    asked = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).repeat_interleave(4, 0)
    read = asked.clone()
    read[1, 0] = 1  # of 00: one with a wrong shape
    read[4:6] = 1 - read[4:6]  # of 01: two with everything wrong
    read[8:12, 1] = 1  # of 10: all four with a wrong size
    reasons = torch.zeros(16, dtype=torch.int64)
    reasons[0] = Reason.BLURRED  # read as asked, yet rejected
    reasons[12:15] = Reason.TWO_OBJECTS  # of 11: three
    radius = torch.tensor([[7.0], [4.0]])[asked[:, 1]] + 0.5
    radius[0] = 100  # counts for nothing: rejected

    def evaluate(mode: str = "centre") -> pd.DataFrame:
        judges = [scripted(read, "strict", reasons, radius), scripted(read, "probe"), scripted(read, "other")]
        evaluator = Evaluator(space, judges, lambda c, count, g: torch.full((count, 1), 5.0), max_batch=5)
        return evaluator.evaluate(lambda classes, *_: torch.zeros(len(classes), 3, 4, 4), mode, 4, seeded()).table

    return evaluate


def test_shares_of_a_judge_that_cannot_reject(by_hand, space) -> None:
    found = scores(by_hand(), space, ("00", "01"))
    unprefixed = {key: share for key, share in found.items() if not key.startswith(("strict_", "other_"))}
    assert unprefixed == {
        "level0": (0.75 + 0.5) / 2,
        "level1": (0 + 1) / 2,
        "comp_00": 0.75,
        "comp_01": 0.5,
        "comp_10": 0.0,
        "comp_11": 1.0,
        "factor_shape": 13 / 16,
        "factor_size": 10 / 16,
    }


def test_rejected_samples_count_as_wrong(by_hand, space) -> None:
    found = scores(by_hand(), space, ("00", "01"))
    strict = {key.removeprefix("strict_"): share for key, share in found.items() if key.startswith("strict_")}
    assert strict == {
        "level0": (0.5 + 0.5) / 2,
        "level1": (0 + 0.25) / 2,
        "comp_00": 0.5,
        "comp_01": 0.5,
        "comp_10": 0.0,
        "comp_11": 0.25,
        "factor_shape": 9 / 16,
        "factor_size": 6 / 16,
        "error_size": 0.5,
        "accepted": 12 / 16,
        "rejected_blurred": 1 / 16,
        "rejected_two_objects": 3 / 16,
    }


def test_names_carry_judge_and_mode(by_hand, space) -> None:
    table = pd.concat([by_hand("centre"), by_hand("drawn")], ignore_index=True)
    found = scores(table, space, ("00", "01"))
    for prefix in ("", "strict_", "drawn_", "strict_drawn_", "other_", "other_drawn_"):
        assert {f"{prefix}level0", f"{prefix}level1", f"{prefix}comp_11", f"{prefix}factor_size"} <= found.keys()
    assert "accepted" not in found and "error_size" not in found, "the probe neither rejects nor measures"
    # measured are 7.5 and 4.5 as before; asked is 5: of 12 accepted samples 7 are large
    assert found["strict_drawn_error_size"] == pytest.approx((7 * 2.5 + 5 * 0.5) / 12)


def test_levels_are_unweighted_means_over_compositions(by_hand, space) -> None:
    table = by_hand()
    fewer = table[~((table["composition"] == "01") & (table["sample"] > 4))]  # one sample of 01 left, and it is wrong
    assert scores(fewer, space, ("00", "01"))["level0"] == (0.75 + 0) / 2
    assert level_shares({"00": 1.0, "01": 0.5, "11": 0.25}, ("00",)) == {0: 1.0, 1: 0.5, 2: 0.25}


def test_every_verdict_is_a_row(by_hand) -> None:
    table = by_hand()
    assert len(table) == 3 * 16
    strict = table[table["judge"] == "strict"].reset_index(drop=True)
    assert strict["sample"].tolist() == list(range(16))
    assert strict["composition"].tolist() == [c for c in ("00", "01", "10", "11") for _ in range(4)]
    assert strict["reason"].tolist() == ["blurred"] + [""] * 11 + ["two objects"] * 3 + [""]
    assert strict.loc[1, ["read_shape", "correct_shape", "correct_size", "all_correct"]].tolist() == [
        1,
        False,
        True,
        False,
    ]
    assert strict.loc[4, ["asked_size_0", "measured_size_0"]].tolist() == [4.0, 4.5]
    assert strict["logit_shape_circle"].isna().all()
    assert table.loc[table["judge"] == "probe", "measured_size_0"].isna().all()


# -- real judges ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_generator_that_draws_what_is_asked_gets_everything(mode, evaluator, obedient, seeded) -> None:
    evaluation = evaluator.evaluate(obedient, mode, 8, seeded())
    found = scores(evaluation.table, evaluator.space, TRAIN)
    shares = {key: share for key, share in found.items() if "error" not in key}
    assert len(shares) == 3 + 8 + 3 + 1
    assert set(shares.values()) == {1.0}
    prefix = "strict_" if mode == "centre" else "strict_drawn_"
    assert found[f"{prefix}error_colour"] < 0.01
    assert found[f"{prefix}error_size"] < 0.05


def test_a_generator_that_ignores_the_condition_gets_chance(evaluator, laptop, seeded) -> None:
    def deaf(classes, values, generator):
        return laptop.images[torch.randint(len(laptop.images), (len(classes),), generator=generator)]

    found = scores(evaluator.evaluate(deaf, "centre", 40, seeded(1)).table, evaluator.space, TRAIN)
    assert found["strict_accepted"] >= 0.99
    assert found["strict_level0"] == pytest.approx(1 / 8, abs=0.1)
    assert found["strict_level1"] == pytest.approx(1 / 8, abs=0.1)
    for name in ("shape", "colour", "size"):
        assert found[f"strict_factor_{name}"] == pytest.approx(1 / 2, abs=0.1)


def test_a_generator_that_draws_one_thing_gets_one_composition(evaluator, laptop, seeded) -> None:
    always = laptop.images[(laptop.classes == torch.tensor([0, 1, 1])).all(1)][:1]
    evaluation = evaluator.evaluate(lambda classes, *_: always.expand(len(classes), -1, -1, -1), "centre", 4, seeded())
    found = scores(evaluation.table, evaluator.space, TRAIN)
    assert {c: found[f"strict_comp_{c}"] for c in evaluator.space.compositions} == {
        c: float(c == "011") for c in evaluator.space.compositions
    }
    assert [found[f"strict_level{k}"] for k in range(3)] == [0, 1 / 3, 0]


def test_the_same_generator_makes_the_same_samples(evaluator, laptop, seeded) -> None:
    def sample(classes, values, generator):
        positions = laptop.data.draw_positions(values, classes, generator)
        return laptop.data.render(values, classes, positions)

    first, again, other = (evaluator.evaluate(sample, "drawn", 4, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    pd.testing.assert_frame_equal(first.table, again.table)
    assert not torch.equal(first.images, other.images)
    assert not torch.equal(first.asked.values, other.asked.values)


def test_samples_are_made_in_batches_and_kept_in_order(evaluator, obedient, laptop, seeded) -> None:
    sizes = []

    def sample(classes, values, generator):
        sizes.append(len(classes))
        return obedient(classes, values, generator)

    evaluation = evaluator.evaluate(sample, "centre", 6, seeded(), compositions=("111", "000"))
    assert sizes == [12]
    evaluator.evaluate(sample, "centre", 6, seeded())
    assert sizes[1:] == [20, 20, 8]
    assert evaluation.asked.compositions == ["111"] * 6 + ["000"] * 6
    expected = obedient(evaluation.asked.classes, evaluation.asked.values, None)
    assert torch.equal(evaluation.images, as_bytes(expected))
    assert evaluation.table["composition"].unique().tolist() == ["111", "000"]


def test_centre_asks_for_class_centres_and_drawn_for_values_as_they_are(laptop, seeded) -> None:
    compositions = laptop.space.compositions
    centre, drawn = (ask(laptop.space, compositions, mode, 64, laptop.data.draw_values, seeded(4)) for mode in MODES)
    assert torch.equal(centre.classes, drawn.classes)
    expected = torch.tensor([laptop.space.centre(c) for c in compositions]).repeat_interleave(64, 0)
    assert torch.equal(centre.values, expected)
    distance = (drawn.values - expected).abs()
    jitter = torch.tensor([0.1, 0.1, 0.1, 0.7])
    assert (distance <= jitter + 1e-5).all()
    assert (distance.amax(0) > 0.9 * jitter).all()
    spent = seeded(4)
    torch.rand(5, generator=spent)
    again = ask(laptop.space, compositions, "drawn", 64, laptop.data.draw_values, spent)
    assert torch.equal(again.values, drawn.values), "values have a stream of their own"


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_an_image_that_is_not_finite_is_wrong_for_every_judge(laptop, obedient, scripted, seeded, number) -> None:
    """No comparison holds of NaN, so that a judge who looks for reasons to reject finds none."""

    def broken(classes, values, generator):
        images = obedient(classes, values, generator)
        images[::2, 0, 3, 4] = number
        return images

    said = torch.tensor([[int(digit) for digit in c] for c in laptop.space.compositions]).repeat_interleave(4, 0)
    judges = [scripted(said, "probe"), laptop.judge]
    result = Evaluator(laptop.space, judges, laptop.data.draw_values).evaluate(broken, "centre", 4, seeded(1))
    for _, rows in result.table.groupby("judge"):
        assert rows["all_correct"].tolist() == [False, True] * 16
        assert rows["reason"].tolist() == ["not finite", ""] * 16


def test_an_unknown_mode_is_refused(evaluator, obedient, seeded) -> None:
    with pytest.raises(ValueError, match="use centre or drawn"):
        evaluator.evaluate(obedient, "middle", 1, seeded())


@pytest.mark.parametrize("key", ["curve_samples", "final_samples", "max_batch"])
def test_nothing_to_judge_is_refused(key) -> None:
    EvaluationConfig().validate()
    with pytest.raises(ValueError, match=rf"evaluation\.{key}=0"):
        EvaluationConfig(**{key: 0}).validate()


def test_accuracy_is_a_share_for_each_composition_present(laptop) -> None:
    rows = (laptop.classes[:, 0] == 0).nonzero().squeeze(1)[:64]
    classes = laptop.classes[rows].clone()
    classes[classes[:, 1] == 1, 2] = 0  # called large, whatever they are
    found = accuracy(laptop.judge, laptop.images[rows], classes, laptop.space)
    assert found == {"000": 1.0, "001": 1.0, "010": 0.5}


# -- on the disk ------------------------------------------------------------------------------------------------------


def test_every_share_can_be_rebuilt_from_the_disk(laptop, obedient, scripted, seeded, tmp_path) -> None:
    """By plain counting over the rows, without the code that made the shares."""

    def sloppy(classes, values, generator):
        images = obedient(classes, values, generator)
        kind = torch.randint(4, (len(images),), generator=generator)
        images[kind == 0] = 1.0  # blank
        images[kind == 1] = images[kind == 1].flip(1)  # red for blue
        return images

    said = torch.randint(2, (2 * 8 * 10, 3), generator=seeded(3))
    evaluator = Evaluator(laptop.space, [scripted(said, "probe"), laptop.judge], laptop.data.draw_values)
    evaluations = [evaluator.evaluate(sloppy, mode, 10, seeded(2)) for mode in MODES]
    write_evaluations(tmp_path, evaluations)
    table = pd.read_parquet(tmp_path / "judgements.parquet")
    assert len(table) == 2 * 2 * 8 * 10

    kept = {}
    for evaluation in evaluations:
        kept |= scores(evaluation.table, laptop.space, TRAIN)
    assert scores(table, laptop.space, TRAIN) == kept
    assert 0.1 < kept["strict_level2"] < 0.9 and kept["strict_rejected_no_object"] > 0.1

    names = {("probe", "centre"): "", ("strict", "centre"): "strict_"}
    names |= {("probe", "drawn"): "drawn_", ("strict", "drawn"): "strict_drawn_"}
    levels = {
        c: min(sum(a != b for a, b in zip(c, seen, strict=True)) for seen in TRAIN) for c in laptop.space.compositions
    }
    counted: dict[str, float] = {}
    for (judge, mode), prefix in names.items():
        rows = [row for row in table.to_dict("records") if (row["judge"], row["mode"]) == (judge, mode)]
        asked = {factor: [int(row["composition"][i]) for row in rows] for i, factor in enumerate(laptop.space.names)}
        right = {
            factor: [
                row["accepted"] and row[f"read_{factor}"] == wanted
                for row, wanted in zip(rows, asked[factor], strict=True)
            ]
            for factor in laptop.space.names
        }
        whole = [all(parts) for parts in zip(*right.values(), strict=True)]
        for composition in levels:
            own = [w for w, row in zip(whole, rows, strict=True) if row["composition"] == composition]
            counted[f"{prefix}comp_{composition}"] = sum(own) / len(own)
        for k in range(3):
            own = [counted[f"{prefix}comp_{c}"] for c in levels if levels[c] == k]
            counted[f"{prefix}level{k}"] = sum(own) / len(own)
        for factor in laptop.space.names:
            counted[f"{prefix}factor_{factor}"] = sum(right[factor]) / len(rows)
        if judge == "strict":
            accepted = [row for row in rows if row["accepted"]]
            counted[f"{prefix}accepted"] = len(accepted) / len(rows)
            counted[f"{prefix}rejected_no_object"] = sum(row["reason"] == "no object" for row in rows) / len(rows)
            for factor, dim in (("colour", 3), ("size", 1)):
                errors = [
                    abs(r[f"measured_{factor}_{i}"] - r[f"asked_{factor}_{i}"]) for r in accepted for i in range(dim)
                ]
                counted[f"{prefix}error_{factor}"] = math.fsum(errors) / len(errors)
    assert counted == pytest.approx(kept)


def test_samples_are_kept_beside_what_was_asked_and_can_be_judged_again(evaluator, obedient, seeded, tmp_path) -> None:
    evaluations = [evaluator.evaluate(obedient, mode, 4, seeded(2)) for mode in MODES]
    write_evaluations(tmp_path, evaluations)
    stored = load_file(tmp_path / "samples.safetensors")
    assert stored.keys() == {f"{mode}_{what}" for mode in MODES for what in ("images", "classes", "values")}
    for evaluation in evaluations:
        mode = evaluation.asked.mode
        assert stored[f"{mode}_images"].dtype == torch.uint8
        assert torch.equal(stored[f"{mode}_images"], evaluation.images)
        assert torch.equal(stored[f"{mode}_classes"], evaluation.asked.classes)
        assert torch.equal(stored[f"{mode}_values"], evaluation.asked.values)
        again = evaluator.judges[0].judge(stored[f"{mode}_images"].float().div(127.5).sub(1))
        assert again.accepted.tolist() == evaluation.table["accepted"].tolist()


def test_bytes_are_rounded_and_clipped() -> None:
    assert as_bytes(torch.tensor([-3.0, -1.0, 0.0, 0.999, 1.0, 2.0])).tolist() == [0, 0, 128, 255, 255, 255]


def test_inceptions_file_and_its_code_are_asked_for_before_anything_is_trained(tmp_path, monkeypatch) -> None:
    (tmp_path / "inception.pth").write_bytes(b"weights")
    told = EvaluationConfig.settle({"inception": str(tmp_path / "inception.pth")})
    assert len(told["inception_sha256"]) == 64
    assert EvaluationConfig.settle({"inception": ""}) == {}
    with pytest.raises(ValueError, match=r"evaluation\.inception=nowhere is no file; leave it empty"):
        EvaluationConfig.settle({"inception": "nowhere"})
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install torch-fidelity"):
        EvaluationConfig(inception="inception.pth").validate()
    EvaluationConfig().validate()

"""Judgements: what counts as right, and how chunks are joined."""

from __future__ import annotations

import torch

from probes.judgement import Judgement, Reason, accept_all, concatenate, correct


def judgement(count: int, start: int = 0, full: bool = True) -> Judgement:
    numbers = torch.arange(start, start + count)
    return Judgement(
        judge="strict",
        classes=torch.stack([numbers % 2, numbers % 3], 1),
        accepted=numbers % 4 != 3,
        reasons=torch.where(numbers % 4 != 3, 0, int(Reason.BLURRED)),
        logits=numbers[:, None].float().expand(-1, 5) if full else None,
        values=numbers[:, None].float() if full else None,
        measurements={"stray": numbers.float()} if full else {},
    )


def test_right_is_read_as_asked_and_accepted() -> None:
    said = judgement(4)  # reads 00, 11, 02, 10 and rejects the last
    asked = torch.tensor([[0, 0], [1, 0], [1, 1], [1, 0]])
    expected = [[True, True], [True, False], [False, False], [False, False]]
    assert correct(said, asked).tolist() == expected


def test_a_forced_choice_accepts_everything() -> None:
    accepted, reasons = accept_all(3)
    assert accepted.tolist() == [True] * 3
    assert reasons.tolist() == [Reason.NONE] * 3
    assert reasons.dtype == torch.int64


def test_chunks_join_to_the_whole() -> None:
    whole, joined = judgement(9), concatenate([judgement(4), judgement(5, start=4)])
    assert len(joined) == len(whole) == 9
    assert joined.judge == "strict"
    for name in ("classes", "accepted", "reasons", "logits", "values"):
        assert torch.equal(getattr(joined, name), getattr(whole, name)), name
    assert torch.equal(joined.measurements["stray"], whole.measurements["stray"])


def test_what_a_judge_does_not_give_stays_absent() -> None:
    joined = concatenate([judgement(2, full=False), judgement(1, full=False)])
    assert joined.logits is None
    assert joined.values is None
    assert joined.measurements == {}


def test_reasons_in_words() -> None:
    assert Reason.NONE.words == ""
    assert Reason.COLOUR_BETWEEN_CLASSES.words == "colour between classes"
    assert len({reason.words for reason in Reason}) == len(Reason)

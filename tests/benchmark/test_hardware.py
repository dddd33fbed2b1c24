"""What a record says about the machine, and what is tried before it is relied on."""

import torch

from benchmark.hardware import why_not_compiled


def test_a_machine_without_a_compiler_is_told_apart_in_one_line(monkeypatch):
    def broken(function):
        def call(*_):
            raise RuntimeError("no C++ compiler\nwas found, set CXX")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    assert why_not_compiled(torch.device("cpu")) == "no C++ compiler was found, set CXX"
    monkeypatch.setattr(torch, "compile", lambda function: function)
    assert why_not_compiled(torch.device("cpu")) == ""

"""One thread a process, for the tests run three processes side by side; and the files that take minutes come first."""

import os

import pytest
import torch

os.environ.pop("CELEBA_ROOT", None)  # what a machine has of real faces must not change a test
torch.set_num_threads(1)  # results depend on their number

# The processes take file after file: a long one at the end would leave the others idle. Of three on two cores one often
# waits, for SLURM or for a program to be killed.
LONG = (
    *("test_soak.py", "test_kill_and_resume.py", "test_cluster.py", "test_end_to_end.py", "test_failures.py"),
    *("test_readme.py", "test_strict_clips.py", "test_celeba.py", "test_clevrer_kubric.py", "test_clevrer_files.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONG)))

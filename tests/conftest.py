"""One thread a process, for the tests run two processes side by side; and the files that take minutes come first."""

import pytest
import torch

torch.set_num_threads(1)  # results depend on their number

# Two processes take file after file: a long one at the end would leave one of them idle for as long.
LONG = ("test_kill_and_resume.py", "test_cluster.py", "test_end_to_end.py", "test_failures.py", "test_readme.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONG)))

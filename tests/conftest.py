"""One thread a process: the tests run two processes side by side, and results depend on the number of threads."""

import torch

torch.set_num_threads(1)

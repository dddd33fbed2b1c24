"""The soak: many tiny cells, while processes are hit and the disk fills up or turns read-only. ``python -m tests.soak``."""

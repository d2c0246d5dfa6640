"""One thread per test process: xdist already uses the cores, and threads that wait for each other would double the time."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

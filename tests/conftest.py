"""Two processes run the tests on two cores: one thread each, or torch's threads wait for one another's turns."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

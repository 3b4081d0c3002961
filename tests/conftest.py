"""What all tests share: one torch thread each, and a hub that is away."""

import os

# Two processes run the tests on two cores: torch's threads would wait for one another's turns.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test needs the network, and where there is none the hub's library tries again for a minute and a half.
os.environ["HF_HUB_OFFLINE"] = "1"

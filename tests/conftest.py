"""What all tests share: one torch thread each, small workspaces, a hub that is away, and no time limit on examples."""

import gc
import os

from hypothesis import HealthCheck, settings

from curate.tables import store

# Hypothesis fails an example that takes over 0.2 s, or slow draws, which says more of the machine than of the code.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")
# Three processes run the tests on two cores, so one thread each is best. Where more are asked for, they sleep while
# they wait for one another: threads that spin take the cores from those that they wait for, and the trainer's tests
# took 229 s with two threads in place of 68.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# No test needs the network, and where there is none the hub's library tries again for a minute and a half.
os.environ["HF_HUB_OFFLINE"] = "1"
# Four files a table show what sixteen do, at a third less time: most workspaces here hold a few dozen rows.
store.DEFAULT_SHARDS = 4
# Modules and tests stay until the end: the collector neither runs while they come in, which took a third of that time,
# nor looks through them again later.
gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
    gc.set_threshold(20_000, 20, 50)


def pytest_unconfigure() -> None:
    # Libraries in C complain of what is still there when the interpreter ends.
    gc.unfreeze()

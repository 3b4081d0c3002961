"""The benchmarks by name."""

from __future__ import annotations

from prm.bench.suites.base import Benchmark
from prm.bench.suites.prmbench import PRMBench
from prm.bench.suites.processbench import ProcessBench
from prm.bench.suites.visualprocessbench import VisualProcessBench

BENCHMARKS: dict[str, Benchmark] = {each.name: each for each in (VisualProcessBench(), ProcessBench(), PRMBench())}

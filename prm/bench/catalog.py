"""The benchmarks by name."""

from __future__ import annotations

from prm.bench.base import Benchmark
from prm.bench.prmbench import PRMBench
from prm.bench.processbench import ProcessBench
from prm.bench.visualprocessbench import VisualProcessBench

BENCHMARKS: dict[str, Benchmark] = {each.name: each for each in (VisualProcessBench(), ProcessBench(), PRMBench())}

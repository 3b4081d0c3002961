"""`prm eval`: figures of a trained PRM on published benchmarks with step labels, and its calibration on held-out data.

One module a benchmark behind the Protocol `base.Benchmark`; `catalog.BENCHMARKS` names them.
"""

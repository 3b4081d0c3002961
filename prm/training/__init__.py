"""The stage `train`: its runs, their inputs, checkpoints, callbacks and records."""

"""The published benchmarks of PRMs, one module each, and the table of their names."""

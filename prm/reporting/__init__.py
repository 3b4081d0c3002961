"""The dataset-quality report as values: facts, verdicts, bands of chance, costs, comparisons."""

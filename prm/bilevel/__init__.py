"""The bi-level optimisation of DreamPRM (arXiv 2505.20241): the two levels, hypergradients, weights."""

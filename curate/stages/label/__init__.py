"""Stage label: Monte Carlo completion of prefixes, and step labels out of the counts."""

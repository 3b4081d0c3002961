"""Curated data in the formats of other tools: one format a file, behind one Protocol and one table of names."""

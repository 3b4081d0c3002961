"""The workspace on disk: the schema of every table, files that never lose a row, lineage, and SQL over them."""

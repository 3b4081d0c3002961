"""File formats of sources: JSON, delimited text, Arrow and Parquet, workbooks, packed files."""

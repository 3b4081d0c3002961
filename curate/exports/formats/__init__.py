"""One module for each format of an export, and the table of their names."""

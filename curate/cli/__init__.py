"""The `curate` command: parse, call, print. Nothing imports this package."""

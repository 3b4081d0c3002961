"""The `prm` command: parse, call, print. Nothing imports this package."""

"""What every room stands on: durable files, YAML, entry points, signals, progress on the terminal, the sandbox."""

"""The report in its forms: terminal, Markdown, one HTML page. Each takes a `Report` or `Selection` and returns it."""

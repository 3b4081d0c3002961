"""Models on disk or on the hub: where they are, which one it is, and how their parts are loaded."""

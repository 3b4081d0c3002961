"""What the clients of the Hugging Face hub raise when the hub, the network or the data is not there."""

from __future__ import annotations


def failures() -> tuple[type[Exception], ...]:
    """Exceptions of huggingface_hub and of its library for HTTP, whose own errors are no OSError."""
    from huggingface_hub.errors import HfHubHTTPError

    # huggingface_hub builds on httpx, and from version 2 on httpx2; its own error inherits from the one that it uses.
    http = [base for base in HfHubHTTPError.__mro__ if issubclass(base, Exception) and base.__name__ == "HTTPError"]
    return (*http, OSError, ValueError)


def reason(error: Exception) -> str:
    """The first line of an error's message, or its kind where it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__

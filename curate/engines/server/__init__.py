"""The engine `server`: OpenAI-compatible endpoints, their requests, answers, streams and refusals."""

"""The final answer of a response: the rules that find it, and the languages that they know."""

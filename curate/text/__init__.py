"""Prompts, steps, thoughts and marks: what the texts of problems and rollouts are made of. Pure."""

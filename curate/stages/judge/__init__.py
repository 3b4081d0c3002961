"""Stage judge: a language model's second opinion of step labels, and consensus filtering."""

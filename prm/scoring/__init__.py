"""A trained PRM at work: step scores of examples, and best-of-N selection among rollouts."""

"""The reward model: backbones, LoRA, the head, how step scores become one, and how a PRM is saved."""

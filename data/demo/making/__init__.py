"""How the embedded demo models are made."""

from curate.engines.torch_companions import mend

# Before anything here imports transformers.
mend()

"""How the embedded demo models are made."""

from curate.models.torch_companions import mend

# Before anything here imports transformers.
mend()

"""Examples on their way to the trainer: read, encoded, held out, sampled, drawn into batches."""

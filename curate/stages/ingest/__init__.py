"""What comes in: the stage ingest, of sources, and rollouts that were generated elsewhere and are imported."""

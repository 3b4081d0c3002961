"""The stages of the pipeline, in their order: ingest, overlap, rollout, label, judge, shard."""

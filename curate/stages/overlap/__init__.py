"""Stages: duplicates among the problems of one role, and training problems that the meta or test set shows.

What is dropped goes into the table `drops`, with the problem that it is too much like and how much; nothing is deleted,
and a stage that is run again decides afresh. Later stages leave dropped problems alone.
"""

from curate.stages.overlap.contamination import decontaminate
from curate.stages.overlap.duplicates import dedup

__all__ = ["decontaminate", "dedup"]

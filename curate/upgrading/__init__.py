"""`curate upgrade`: a workspace that an earlier release wrote, brought to the tables of this one."""

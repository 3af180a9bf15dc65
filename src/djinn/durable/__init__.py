"""Sessions that outlive the process: their files, and what a machine must have in common to restore one."""

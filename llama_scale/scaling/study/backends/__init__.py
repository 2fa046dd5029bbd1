"""Where a study's tasks run: processes of this machine, or a SLURM cluster."""

"""The sweep as a SLURM job: a Ray cluster inside an allocation, attached to from the login node."""

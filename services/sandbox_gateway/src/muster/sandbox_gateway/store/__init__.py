"""What the gateway keeps: streams and buckets, nothing else."""

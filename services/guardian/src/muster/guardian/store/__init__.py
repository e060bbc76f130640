"""What is recorded: the two logs of a sandbox, the folds kept over them, the lease."""

"""Access of the feature `repositories` to the disk, to git hosts and to the APIs of forges."""

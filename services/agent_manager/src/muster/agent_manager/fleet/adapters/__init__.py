"""Access of the feature `fleet` to agents, processes, directories and credentials."""

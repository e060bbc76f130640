"""The agent manager: queues tasks, opens their attempts, and runs agents as processes."""

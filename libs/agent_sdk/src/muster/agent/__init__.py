"""The agent SDK: the base class `Agent`, and the processes that run an agent in process mode or in a sandbox."""

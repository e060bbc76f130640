"""The agent SDK: the `Agent` base class, and the processes that run an agent in process mode and in a sandbox."""

"""`muster agent`: agents, the packages they are made of, and what they say."""

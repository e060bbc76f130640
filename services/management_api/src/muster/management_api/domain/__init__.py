"""Pure decisions: positions of a feed, what an event looks like, what a request may say."""

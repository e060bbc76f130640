"""The smallest agent: plays written steps in milliseconds."""

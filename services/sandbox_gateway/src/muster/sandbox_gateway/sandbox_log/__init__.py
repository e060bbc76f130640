"""The sandbox logs, one JetStream subject for each sandbox. Appends are done by compare-and-set; a fence ends a log."""

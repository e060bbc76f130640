"""The sandbox log: one subject per sandbox, appended by compare-and-set, ended by a fence."""

"""The history of schema `manager`."""

"""The API's routes that list, read and verify sandboxes."""

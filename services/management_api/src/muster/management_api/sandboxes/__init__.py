"""The API's routes that list, read and verify sandboxes, and run commands in them."""

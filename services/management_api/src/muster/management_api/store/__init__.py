"""What the API keeps on streams, and how it reads others'."""

"""One module per service's messages: this is the wire."""

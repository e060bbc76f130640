"""NATS and JetStream, typed. The only room that imports nats."""

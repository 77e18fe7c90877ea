"""What a server of adapters reads from and writes to: the registry, traffic and feedback."""

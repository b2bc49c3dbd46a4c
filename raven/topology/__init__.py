"""Who is where, and what each node's WireGuard device and routing table must therefore hold."""

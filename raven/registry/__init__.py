"""What the gateway remembers: nodes, tokens, certificates, audit."""

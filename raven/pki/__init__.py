"""The certificate authority, node identities and join tokens; clock and randomness are arguments."""

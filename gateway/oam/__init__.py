"""O&M at the gateway: the entries, who asks, what the policy says, and what is written down of it."""

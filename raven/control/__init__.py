"""What agent and gateway say to each other in CONTROL frames and OPEN headers."""

"""Mixed load for a long time, and a look at what has grown. `make soak` runs it."""

"""`make demo`: the main job of Raven on real programs, one row a step, then a live view until Ctrl-C."""

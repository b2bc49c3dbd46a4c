"""What an operator does with a gateway's state directory; `gateway.commands` has the options and tables."""

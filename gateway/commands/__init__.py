"""The commands on the state directory of a gateway, whether it runs or not: options, tables, exit codes.

What each does stands in `gateway.admin`, imported by the command that is run, so each answers at once.
"""

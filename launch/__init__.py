"""Compose and start: the command line, configuration, hosts, and what a rank executes."""

"""Monitors: jobs that are run again whenever there is something new to map."""

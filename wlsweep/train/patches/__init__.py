"""Replaced functions of other libraries, each in a file of its own."""

"""Worked solutions to train on: where they come from, and which of them are kept."""

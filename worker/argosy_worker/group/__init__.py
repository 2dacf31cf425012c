"""Processes that share one model, each with some of its layers: how they find each other, compute together, and end."""

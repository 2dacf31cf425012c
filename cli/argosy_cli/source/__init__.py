"""From what a person calls a model to where it is, and to the resource that serves it."""

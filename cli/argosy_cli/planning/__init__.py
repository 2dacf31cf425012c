"""`argosy plan`: how the memory of a worker will divide, before anything is created."""

"""`argosy bench`: what a client feels of a server, over more and more requests at once, beside a peer."""

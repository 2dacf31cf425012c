"""`argosy top`: what each deployment is doing now."""

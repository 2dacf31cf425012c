"""`argosy tradeoffs`: what each number format and technique costs and brings, measured on this machine."""

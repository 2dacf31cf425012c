"""`python -m argosy_cli` is the same as `argosy`."""

from argosy_cli.entry import main

if __name__ == "__main__":
    main()

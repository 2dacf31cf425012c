"""`python -m argosy_cli`: the same as `argosy`."""

from argosy_cli.main import main

if __name__ == "__main__":
    main()

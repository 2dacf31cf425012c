"""The `argosy` command: embedded mode (`up`), questions to a running router (`generate`, `chat`), and views of both."""

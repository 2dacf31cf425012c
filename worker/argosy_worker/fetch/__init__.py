"""Where weights come from: model URIs and the hub."""

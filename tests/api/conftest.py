"""The helper modules are imported from here, so that tests need no package."""

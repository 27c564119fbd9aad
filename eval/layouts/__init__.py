"""One file a public layout; see layout.py."""

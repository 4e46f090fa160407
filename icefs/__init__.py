"""icefs: Icechunk repositories as files."""

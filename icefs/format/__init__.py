"""The Icechunk format: bytes to frozen values and back. No I/O."""

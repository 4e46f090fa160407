"""The Icechunk engine: repositories, sessions and what works on them."""

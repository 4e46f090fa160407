"""The adapter between the VFS and the kernel."""

"""The Icechunk engine: repositories, sessions, history and upkeep.

repository  a repository that is read: its refs, its history, sessions on its snapshots
read        sessions that read, and the caches and threads behind them
write       sessions that write, and commits
history     what changed between snapshots, and when
merge       merges, picked and reverted commits
exchange    clone, pull and push: histories of one repository come to another
upkeep      checks, collection, expiration, sizes, upgrades
"""

"""What a mount reports about itself in numbers.

counters       counts of commits, and the delay of the event loop
stats          counts, errors, latencies and bytes of requests
access_log     the last requests, with their paths
metrics        metrics as values, and Prometheus' text format
mount_facts    what `info.json` tells of how the mount was made, and its options now
observer       takes the numbers of a mount, and has them written down
look           the numbers of one moment
stats_json     `stats.json`, which `icefs top` shows
mount_metrics  `metrics`, for Prometheus
process        what the daemon's process uses
"""

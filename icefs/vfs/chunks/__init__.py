"""Chunk files: which exist, and their bytes.

array_view  an array of one snapshot as directories and files
reader      reads chunks, from local files or fetched ahead of the first read
fetcher     fetches bytes, and keeps the last ones in bounded memory
lookahead   predicts which chunks a program opens next
warmup      fills the disk cache with a part of a tree
"""

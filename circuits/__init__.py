"""Reads a trained weight-sparse transformer: which nodes and edges compute a behaviour, and is that to be believed?"""

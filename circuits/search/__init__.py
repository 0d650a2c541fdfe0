"""From a task to the smallest set of nodes (or edges) that does it: attribution, learning, bisection, clean-up, rankings."""

"""How good it is: metrics, statistics, and what a run leaves."""

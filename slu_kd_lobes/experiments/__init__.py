"""Many runs and what they show: a matrix of runs, statistics, a report."""

"""Says where the command is that runs experiments."""

import sys

if __name__ == "__main__":
    sys.exit(
        "error: experiments are run by a recipe: python experiments.py "
        "experiments/table1.yaml --data_folder=/path/to/corpus"
    )

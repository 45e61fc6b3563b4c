"""What a trial needs of a machine, its share of a GPU, and when it starts.
Pure but for reading the ledger; knows no Ray."""

"""The runner on Ray: Tune decides what runs when, Train runs it. The only package that imports ray."""

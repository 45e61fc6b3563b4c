"""What is trained: trials (arms x seeds, or a search's draws) with ids that are content hashes.
Also the protocol of what a runner pulls trials from, `TrialSource`."""

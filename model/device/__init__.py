"""The device that a run trains on: what it launches, what it waits for, what is read from its meters."""

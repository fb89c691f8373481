"""Other ways to make the same map, and ours: each in a process of its own, on the same imagery, with the same model."""

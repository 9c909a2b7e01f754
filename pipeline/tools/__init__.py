"""What is done with finished runs: ask their stages, compare them, measure what thinking costs, export a model."""

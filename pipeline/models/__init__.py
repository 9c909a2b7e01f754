"""Base models: how a name becomes a folder of safetensors, and that a model."""

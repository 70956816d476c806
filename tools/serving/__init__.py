"""The parts of ``tools/serve.py``."""

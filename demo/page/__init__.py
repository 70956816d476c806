"""The parts of ``demo/app.py``."""

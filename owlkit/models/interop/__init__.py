"""Hugging Face checkpoints to owlkit and back."""

"""Architectures: latents and conditions. Nothing here knows of pixels' meaning, datasets or judges."""

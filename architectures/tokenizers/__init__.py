"""Tokenizers: images to latents and back, trained once and shared by every cell that agrees on them."""

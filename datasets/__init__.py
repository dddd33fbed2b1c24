"""Datasets: factors and pixels. Nothing here knows of latents, models or judges."""

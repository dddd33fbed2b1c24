"""Probes: judges of images, and the callbacks that ask them while a model trains."""

"""Manifests: what a file asks for, one module for each format."""

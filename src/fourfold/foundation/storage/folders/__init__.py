"""Versioned folders of files, over the blob store."""

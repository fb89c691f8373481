"""A mosaic on a web map."""

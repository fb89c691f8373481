"""A mosaic as a STAC catalog."""

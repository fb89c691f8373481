"""A mosaic in other people's formats: GeoTIFF, vectors, a picture."""

"""Runs as people watch them: pages in the browser, the same as JSON, an API to submit and steer them."""

__all__: list[str] = []

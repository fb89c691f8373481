"""Find imagery, and describe it in the words of ``mapper``.

    from catalogs.search import Query, search
    from catalogs.items import item_from_stac

Import from the modules: reading a job file should not have to load Arrow.
"""

__all__ = ["hrefs", "items", "search", "select", "sensors", "snapshot"]

"""Reading and keeping files: downloads, archives, tables, caches."""

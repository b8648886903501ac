"""Small helpers that several packages use: files, argument checks, types, tables, processes."""

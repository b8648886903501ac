"""Reports of runs as a page of HTML or Markdown; configs are read as data, not executed."""

"""Records -> tables in Markdown, LaTeX and JSON."""

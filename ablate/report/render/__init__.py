"""A report in each format: the document as data, and its tables, figures and pages in Markdown, HTML, LaTeX and CSV.
Knows nothing of studies."""

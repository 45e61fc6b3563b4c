"""The sections of a report, a module a subject. Each turns findings into paragraphs, tables and figures, and knows no
output format."""

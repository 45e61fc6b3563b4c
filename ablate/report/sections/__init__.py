"""The report's chapters: each turns findings into sections of words, tables and figures."""

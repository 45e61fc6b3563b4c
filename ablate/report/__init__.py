"""The report: what the analyses found becomes sections, the sections one document, and the document tables, figures and
pages. `python -m ablate.report STUDY` writes it; `findings.py` computes, `sections/` words, `writer.py` writes."""

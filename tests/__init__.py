"""Tests mirror the folders of what they test; helpers that several folders share stand here."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The checkout."""

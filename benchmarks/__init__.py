"""Ratios and numbers measured in one run; `make bench` runs every module that has no leading underscore."""

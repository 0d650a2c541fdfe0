"""Circuits as files of other tools."""

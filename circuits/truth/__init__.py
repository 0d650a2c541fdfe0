"""Circuits whose truth is known, and what the report card makes of them."""

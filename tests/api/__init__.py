"""Tests of the functions and objects for Python."""

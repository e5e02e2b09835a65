"""Runs that earlier versions wrote, and what reads and writes such archives."""

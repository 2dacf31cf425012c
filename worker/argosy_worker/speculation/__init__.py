"""Guessing tokens ahead: who guesses, how much of it pays, and what came of it. No torch."""

"""Measuring a model: texts, log-probabilities, speed."""

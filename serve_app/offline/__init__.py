"""Scoring files of rows into files of answers, on Ray Data, with the code that scores requests."""

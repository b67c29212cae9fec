"""From the cells of a row to a probability and its reasons. Pure: no Ray, no HTTP, no files.

A row passes through ``rows`` (JSON to a values array), ``features`` (values to the model's matrix), ``scorers`` (matrix to
probabilities) and ``answers`` (probabilities to JSON). ``schema`` says what a column is, ``explanation`` gives the reasons for
an answer, and ``drift`` compares the scored rows with the training rows.
"""

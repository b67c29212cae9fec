"""From the cells of a row to a probability and its reasons. Pure: no Ray, no HTTP, no files."""

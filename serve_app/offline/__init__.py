"""From files of rows to files of answers, on Ray Data."""

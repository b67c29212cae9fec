"""From a table, or a fitted estimator, to model components and a report on them."""
